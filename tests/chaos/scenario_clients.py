"""F11: clients hang up at random tokens. F32: two requests under one name.

Every process is watched (``watched_child``), so that what was computed after a client had left is counted at
the node, and the delays are read from the processes' own clocks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from hangups import Caller, aftermath
from leavers import FLAGS, PAGES_S, Figures, Stays, kinds
from report import FaultMissing, Plan, Row, Scenario
from streams import Ask, Outcome, oracle
from watched import Trace, watched

AT_ONCE = 8
LONGEST = 64  # tokens read before a client leaves


def random_token(plan: Plan) -> Row:
    """Clients leave at random tokens, while two others at a time read to the end."""
    row = Row("F11", "the client hangs up at a random token", unit="clients", bound_s=PAGES_S)
    rng = random.Random(f"{plan.seed}/F11")
    asks = kinds(rng, 24, 400, LONGEST)
    with watched(*FLAGS) as cluster:
        known = oracle(cluster.url, asks, 4)
        cluster.trace.forget()
        jobs = [(number, random.Random(f"{plan.seed}/F11/{number}")) for number in range(plan.count(1000))]
        stays = Stays(cluster.url, asks, known)
        with ThreadPoolExecutor(AT_ONCE) as pool, stays.beside():
            callers = list(pool.map(lambda job: _leave(cluster.url, asks, *job), jobs))
        for caller, (number, _) in zip(callers, jobs, strict=True):
            right = known[number % len(asks)].tokens[0][: len(caller.tokens)]
            if caller.tokens != right:
                row.problems.append(f"client {number} read other tokens than without the fault")
        figures = Figures(row)
        for caller, after in zip(callers, aftermath(cluster.trace, callers), strict=True):
            figures.add("", caller, after, verified=not caller.finished)
        figures.close(cluster, stays)
    return row


def _leave(url: str, asks: Sequence[Ask], number: int, rng: random.Random) -> Caller:
    """Read a random number of tokens, then go; every second one without a goodbye."""
    ask = asks[number % len(asks)]
    caller = Caller(url, ask.params | {"prompt": ask.prompt, "max_tokens": 400})
    caller.send()
    caller.read(rng.randrange(1, LONGEST + 1))
    caller.hang_up(hard=number % 2 == 0)
    return caller


# --- F32 ----------------------------------------------------------------------------------------------------


def twins(plan: Plan) -> Row:
    """Identical requests at once under one client's id: each right, whether the other stays or leaves."""
    row = Row("F32", "two requests at once with one X-Request-Id", unit="pairs")
    asks = kinds(random.Random(f"{plan.seed}/F32"), 12, 400, LONGEST)
    with watched(*FLAGS) as cluster:
        known = oracle(cluster.url, asks, 4)
        for number in range(plan.count(100, least=4)):
            cluster.trace.forget()
            kind = number % len(asks)
            pair = _pair(cluster.url, asks[kind], leaves=number % 2 == 1)
            row.runs += 1
            row.units += 1
            row.verified += _at_once(cluster.trace, pair)
            row.equal += _right(pair, known[kind])
            if not _right(pair, known[kind]):
                row.problems.append(f"pair {number}: {[len(caller.tokens) for caller in pair]} tokens read")
        row.leaked += len(cluster.left_over())
    return row


def _pair(url: str, ask: Ask, *, leaves: bool) -> list[Caller]:
    """Two callers, of whom the second leaves early or stays."""
    pair = [Caller(url, ask.params | {"prompt": ask.prompt}, "the-same-name") for _ in range(2)]
    for caller in pair:
        caller.send()
    with ThreadPoolExecutor(2) as pool:
        reading = [
            pool.submit(_read, caller, until)
            for caller, until in zip(pair, (LONGEST, 5 if leaves else LONGEST), strict=True)
        ]
    for future in reading:
        future.result()
    return pair


def _read(caller: Caller, tokens: int) -> None:
    caller.read(tokens)
    caller.hang_up(hard=False)


def _at_once(trace: Trace, pair: list[Caller]) -> bool:
    """Both were under way at the same time, as two requests of the router."""
    trace.read()
    begun = {line.facts["request"]: line.at for line in trace.of("open")}
    names = {caller.request for caller in pair}
    if len(names) != 2 or not names <= begun.keys():
        raise FaultMissing(f"the two requests are {names} to the router")
    return max(begun[name] for name in names) < min(caller.closed_at for caller in pair)


def _right(pair: list[Caller], known: Outcome) -> bool:
    first, second = (caller.tokens for caller in pair)
    whole = known.tokens[0]
    return first == whole and second == whole[: len(second)] and len(second) >= 5


SCENARIOS: dict[str, Scenario] = {"F11": random_token, "F32": twins}
