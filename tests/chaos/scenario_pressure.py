"""F26: one decode node's pages are used up while 64 handoffs wait for them. Nothing else may wait with them.

The other decode node is stopped until the router has given it up, so that everything goes to the first; then
it is woken, and new requests must be served at once although the first is as full as before.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from report import FaultMissing, Plan, Row, Scenario
from streams import Ask, Flight, Outcome, oracle
from watched import Watched, watched

FULL, OTHER = "decode-0", "decode-1"
WAITING = 64
BATCH = 8192  # tokens; the prefill node asks for room for two batches ahead
PROMPT = 2 * BATCH // WAITING  # so that those that wait are all it may ask for
FILLERS, FILLER_PROMPT, FILLER_TOKENS = 4, 1300, 700
OTHERS = 16
PATIENCE_S = 240.0
BOUND_S = 10.0
FLAGS = (
    *("--decode", "2", "--kv-cache-memory", "4MiB", "--max-num-batched-tokens", str(BATCH)),
    *("--recovery-timeout", "60"),
)
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "ignore_eos": True}


def pressure(plan: Plan) -> Row:
    row = Row("F26", f"a full decode node, {WAITING} handoffs wait for its pages", bound_s=BOUND_S)
    preempted = 0.0
    with watched(*FLAGS) as cluster:
        for rng in itertools.islice(plan.seeds(), plan.count(3)):
            row.runs += 1
            plan.step(f"run {row.runs}")
            preempted += once(cluster, rng, row)
            row.leaked += len(cluster.left_over())
    row.notes.append(f"preempted and resumed: {preempted:g}; slowest is that of {2 * OTHERS} other requests")
    return row


def asks_of(rng: random.Random) -> dict[str, list[Ask]]:
    """Those that fill the pages, those that wait, and the others: for the other node, and for none."""

    def made(count: int, prompt: int, tokens: int) -> list[Ask]:
        return [
            Ask(
                [rng.randrange(1000, 40000) for _ in range(prompt)],
                SAMPLED | {"max_tokens": tokens, "seed": rng.getrandbits(40)},
            )
            for _ in range(count)
        ]

    return {
        "fill": made(FILLERS, FILLER_PROMPT, FILLER_TOKENS),
        "wait": made(WAITING, PROMPT, 8),
        "there": made(OTHERS, 300, 32),
        "nowhere": made(OTHERS, 300, 1),
    }


def once(cluster: Watched, rng: random.Random, row: Row) -> float:
    """One run, from empty to empty. Returns how often a sequence was preempted."""
    asks = asks_of(rng)
    expected = {kind: oracle(cluster.url, some, 1) for kind, some in asks.items()}
    cluster.until_nothing_is_held()
    before = cluster.preemptions()
    salted = {kind: [_salted(ask) for ask in some] for kind, some in asks.items()}
    with stopped(cluster, OTHER):
        fill = Flight(cluster.url, salted["fill"], PATIENCE_S)
        if not fill.until(lambda outs: all(out.first for out in outs), 60):
            raise FaultMissing("the pages were not filled")
        wait = Flight(cluster.url, salted["wait"], PATIENCE_S)
        _until_waiting(cluster)
    cluster.until(cluster.complete, 30)
    found = _others(cluster, salted, row)
    found |= {"fill": fill.land(PATIENCE_S), "wait": wait.land(PATIENCE_S)}
    for kind, outcomes in found.items():
        _compare(row, kind, outcomes, expected[kind])
    cluster.until(lambda: cluster.preemptions() > before, 3)
    row.verified += 1
    return cluster.preemptions() - before


def _others(cluster: Watched, salted: dict[str, list[Ask]], row: Row) -> dict[str, list[Outcome]]:
    """What must go on meanwhile. Raises FaultMissing if the node was not full all the time."""
    began = time.monotonic()
    flights = {kind: Flight(cluster.url, salted[kind], PATIENCE_S) for kind in ("there", "nowhere")}
    found = {kind: flight.land(PATIENCE_S) for kind, flight in flights.items()}
    ended = max(out.ended for outs in found.values() for out in outs)
    row.took(ended - began)
    if ended - began <= BOUND_S and (least := _least_waiting(cluster, began, ended)) < WAITING:
        raise FaultMissing(f"only {least} handoffs were waiting while the others ran")
    return found


def _until_waiting(cluster: Watched) -> None:
    def full() -> bool:
        return cluster.nodes()[FULL]["load"]["waiting"] >= WAITING

    cluster.until(full, 60)


def _least_waiting(cluster: Watched, began: float, ended: float) -> int:
    """The fewest handoffs that waited on the full node between two times, from its own trace."""
    cluster.trace.read()
    lines = [line for line in cluster.trace.of("load") if line.where == FULL and line.at <= ended]
    before = [line for line in lines if line.at <= began][-1:]
    meanwhile = [line for line in lines if line.at > began]
    return min(line.facts["waiting"] for line in before + meanwhile)


def _compare(row: Row, kind: str, found: list[Outcome], expected: list[Outcome]) -> None:
    for out, right in zip(found, expected, strict=True):
        row.units += 1
        row.equal += out.equals(right)
        if not out.equals(right):
            row.problems.append(f"{kind}: error {out.error}, {out.count} of {right.count} tokens")


def _salted(ask: Ask) -> Ask:
    """The same for other pages: nothing of the run without a fault is found in a cache."""
    return Ask(ask.prompt, ask.params | {"cache_salt": "under pressure"})


@contextmanager
def stopped(cluster: Watched, name: str) -> Iterator[None]:
    """Meanwhile ``name`` is stopped, and the router has given it up."""
    process = psutil.Process(cluster.pid(name))
    process.suspend()
    try:
        cluster.until(lambda: name not in cluster.nodes(), 15)
        if process.status() != psutil.STATUS_STOPPED:
            raise FaultMissing(f"{name} is {process.status()}")
        yield
    finally:
        process.resume()


SCENARIOS: dict[str, Scenario] = {"F26": pressure}
