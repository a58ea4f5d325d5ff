"""F12: clients hang up in each phase of a request's life.

Every process is watched (``watched_child``): that a client left in the phase that was meant is read from the
trace, and one that left elsewhere does not count. Beside them others read to the end and must get what they
get without them; no page may be handed out while a transfer still reads or writes it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

from cluster import completion
from hangups import After, Caller, aftermath
from leavers import FLAGS, PAGES_S, SAMPLED, Figures, Stays, kinds, prompt
from marks import Mark
from report import FaultMissing, Plan, Row, Scenario
from streams import oracle
from watched import Watched, watched

SETTLE_S = 3.0
TRIES = 5  # for each client that has to leave in a phase

Leave = Callable[[Watched, random.Random, int], list[Caller]]


def in_each_phase(plan: Plan) -> Row:
    """Clients leave in each of seven phases of their request's life."""
    row = Row("F12", "the client hangs up in each of 7 phases", unit="clients", bound_s=PAGES_S)
    rng, serial = random.Random(f"{plan.seed}/F12"), count(1)
    asks = kinds(rng, 8, 300, 48)
    with watched(*FLAGS, "--no-prefix-caching") as cluster:  # a page that comes back is the next to be used
        known = oracle(cluster.url, asks, 2)
        cluster.trace.forget()
        figures, stays = Figures(row), Stays(cluster.url, asks, known)
        with stays.beside(), cluster.armed():
            for name, (leave, happened) in PHASES.items():
                plan.step(name)
                _phase(cluster, name, leave, happened, plan.count(100, least=3), rng, serial, figures)
        figures.close(cluster, stays)
    return row


def _phase(
    cluster: Watched,
    name: str,
    leave: Leave,
    happened: Callable[[After], bool],
    wanted: int,
    rng: random.Random,
    serial: Iterator[int],
    figures: Figures,
) -> None:
    """Until ``wanted`` clients have left in that phase. Raises FaultMissing if too many of them missed it."""
    hit = missed = 0
    while hit < wanted:
        callers = leave(cluster, rng, next(serial))
        for caller, after in zip(callers, _settled(cluster, callers), strict=True):
            if happened(after):
                hit += 1
                figures.add(name, caller, after, verified=True)
            else:
                missed += 1
        if missed > TRIES * wanted + 20:
            raise FaultMissing(f"only {hit} of {hit + missed} clients left in the phase {name!r}")
        cluster.trace.forget("reused", "stray_write")
    figures.missed[name] = missed


def _settled(cluster: Watched, callers: list[Caller]) -> list[After]:
    """What followed, once nothing more is to come, or nothing has come for long."""
    end = time.monotonic() + SETTLE_S
    while True:
        time.sleep(0.01)
        afters = aftermath(cluster.trace, callers)
        if all(after.request is None or after.pages_s is not None for after in afters):
            return afters
        if time.monotonic() > end:
            return afters


def _caller(
    cluster: Watched, rng: random.Random, serial: int, length: int, tokens: int, hold: str = ""
) -> Caller:
    seed = Mark(rng.getrandbits(32), hold=hold).seed
    return Caller(cluster.url, SAMPLED | {"seed": seed, "prompt": prompt(rng, length), "max_tokens": tokens})


def parse(cluster: Watched, rng: random.Random, serial: int) -> list[Caller]:
    """Before the router has all of the request."""
    caller = _caller(cluster, rng, serial, 200, 64)
    caller.send_part(rng.random())
    time.sleep(rng.random() * 0.005)
    caller.hang_up(hard=serial % 2 == 0)
    return [caller]


def queue(cluster: Watched, rng: random.Random, serial: int) -> list[Caller]:
    """While the prefill node reads the prompts of others."""
    callers = [_caller(cluster, rng, serial, 600, 8) for _ in range(12)]
    for caller in callers:
        caller.send()
    seeds = {callers[-1].seed}
    _wait(cluster, lambda line: line.kind == "take" and line.facts["seed"] in seeds)
    for caller in reversed(callers):  # the first ones are being read
        caller.hang_up(hard=serial % 2 == 0)
    return callers


def prefill(cluster: Watched, rng: random.Random, serial: int) -> list[Caller]:
    """While its prompt is being read."""
    caller = _caller(cluster, rng, serial, 1200, 64)
    caller.send()
    enough = rng.randrange(64, 700)
    _wait(cluster, lambda line: line.kind == "publish" and enough <= line.facts["computed"] < 1200)
    caller.hang_up(hard=serial % 2 == 0)
    return [caller]


def held(hold: str, length: int, cluster: Watched, rng: random.Random, serial: int) -> list[Caller]:
    """While the decode node stands still at ``hold``; it goes on once the router has given the request up."""
    tokens = rng.randrange(4, 12)
    caller = _caller(cluster, rng, serial, length, tokens, hold)
    caller.send()
    if hold == "last":
        caller.read(tokens - 1)
    stood = _wait(cluster, lambda line: line.kind == "hold")
    time.sleep(rng.random() * 0.01)
    caller.hang_up(hard=serial % 2 == 0)
    request = stood.facts["request"]
    _wait(cluster, lambda line: line.kind == "cancel" and line.facts["request"] == request)
    _newcomer(cluster, rng)
    cluster.let_go(request)
    return [caller]


def _newcomer(cluster: Watched, rng: random.Random) -> None:
    """A request that the prefill node serves alone, in the pages that have just come back, if they have."""
    body = SAMPLED | {"seed": rng.getrandbits(40), "prompt": prompt(rng, 600), "max_tokens": 1}
    completion(cluster.url, **body)


def decode(cluster: Watched, rng: random.Random, serial: int) -> list[Caller]:
    """While tokens come."""
    caller = _caller(cluster, rng, serial, rng.randrange(20, 200), 400)
    caller.send()
    caller.read(rng.randrange(2, 40))
    caller.hang_up(hard=serial % 2 == 0)
    return [caller]


def _wait(cluster: Watched, probe: Callable[[Any], bool]) -> Any:
    if (line := cluster.trace.until(probe, 30)) is None:
        raise FaultMissing("the request did not get to its phase")
    return line


def _seen(after: After, *kinds: str) -> bool:
    return any(line.kind in kinds for line in after.lines)


def _held_at(after: After, point: str) -> bool:
    """The node stood there until after the cancel."""
    lines = {line.kind: line for line in after.lines}
    if not {"hold", "go", "cancel"} <= lines.keys() or lines["hold"].facts["point"] != point:
        return False
    return lines["go"].facts["let_go"] and lines["hold"].at < lines["cancel"].at < lines["go"].at


def _while_read(after: After) -> bool:
    """The prefill node learned of it after it had begun with the prompt, and before its end."""
    told = [line.at for line in after.lines if line.kind == "cancelled" and line.where == "prefill-0"]
    begun = [line.at for line in after.lines if line.kind == "publish" and line.facts["computed"] > 0]
    return bool(told and begun) and begun[0] < told[0] and not _seen(after, "commit")


def _while_written(after: After) -> bool:
    sent = [line.at for line in after.lines if line.kind == "tokens" and line.where == "decode-0"]
    return bool(sent) and _seen(after, "cancel")


PHASES: dict[str, tuple[Leave, Callable[[After], bool]]] = {
    "parse": (parse, lambda after: after.request is None),
    "queue": (queue, lambda after: _seen(after, "cancel") and not _seen(after, "reserve")),
    "prefill": (prefill, _while_read),
    "transfer": (partial(held, "streaming", 600), lambda after: _held_at(after, "streaming")),
    "commit": (partial(held, "landed", 100), lambda after: _held_at(after, "landed")),
    "decode": (decode, _while_written),
    "last token": (partial(held, "last", 60), lambda after: _held_at(after, "last")),
}


SCENARIOS: dict[str, Scenario] = {"F12": in_each_phase}
