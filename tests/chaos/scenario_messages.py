"""F15 and F18 at the mailbox: wrong and repeated messages between a real router and real nodes, both ways.

A relay with the right keys stands between them, and says more than was said, over the nodes' own
connections, while requests go on. Pass: every wrong message is counted by its reader, no process ends, all
requests get the tokens that they get without it, and nothing is held afterwards.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable

import here  # noqa: F401
import mutate
from byhand import ByHand, Hook, Relay
from hostile import GROWTH_MIB, secret_file, until
from prompts import requests
from report import Plan, Row, Scenario
from streams import Ask, Outcome, oracle, run_all

COPIES = 30


def _asks(count: int) -> list[Ask]:
    return [Ask(tokens, params) for tokens, params in requests(4000, count, longest=200, new=24)]


def f15b(plan: Plan) -> Row:
    row = Row("F15b", "mutated messages between the router and its nodes", unit="messages", runs=1)
    rng, wanted, asks = random.Random(f"{plan.seed}/mailbox"), plan.count(30_000, 1000), _asks(24)
    with secret_file() as file, ByHand(file, relayed=True) as cluster:
        assert cluster.relay is not None
        expected = oracle(cluster.url, asks, threads=4)
        memory = cluster.memory()
        began = time.monotonic()
        cluster.relay.hook = lambda way, data: ([_wrong(rng, way, data) for _ in range(COPIES)], [])
        rounds = wrong = 0
        while sum(cluster.relay.extra.values()) < wanted:
            found = run_all(cluster.url, asks, threads=4)
            wrong += sum(not got.equals(want) for got, want in zip(found, expected, strict=True))
            rounds += 1
            plan.step(f"{sum(cluster.relay.extra.values())} messages")
        cluster.relay.hook = lambda way, data: ([], [])
        row.took(time.monotonic() - began)
        _counted(row, cluster, cluster.relay)
        grown = {name: (rss - memory[name]) / 2**20 for name, rss in cluster.memory().items()}
        _conclude(row, cluster, f"{rounds * len(asks)} requests, {wrong} wrong", wrong)
        row.notes.append(
            f"up {cluster.relay.extra['up']:,}, down {cluster.relay.extra['down']:,}; MiB more: {grown}"
        )
        if max(grown.values()) > GROWTH_MIB:
            row.problems.append(f"memory grew by {grown} MiB")
    return row


def _wrong(rng: random.Random, way: str, data: bytes) -> list[bytes]:
    return mutate.message(rng, data)


def _counted(row: Row, cluster: ByHand, relay: Relay) -> None:
    """Each side has counted exactly what was made wrong for it."""
    for way, count in (("up", cluster.refused), ("down", cluster.unread)):
        sent = relay.extra[way]
        until(lambda count=count, sent=sent: count() >= sent, 30, f"{sent} messages {way} counted")
        row.units += sent
        row.named += min(sent, count())
        if count() != sent:
            row.problems.append(f"{way}: {count()} counted, {sent} sent")
    row.verified += 1


def _conclude(row: Row, cluster: ByHand, note: str, wrong: int) -> None:
    if wrong:
        row.problems.append(note)
    if len(cluster.alive()) != len(cluster.programs):
        gone = cluster.programs.keys() - set(cluster.alive())
        row.problems += [f"{name} ended:\n{cluster.log_of(name)[-1500:]}" for name in gone]
    cluster.wait_for_beats()
    held = cluster.held()
    row.leaked += len(held)
    row.notes.append(f"{note}; held afterwards: {held or 'nothing'}")


def f18b(plan: Plan) -> Row:
    row = Row(
        "F18b", "every message of the mailbox ten times, at once and again later", unit="requests", runs=1
    )
    asks = _asks(plan.count(24, 6))
    with secret_file() as file, ByHand(file, relayed=True) as cluster:
        relay = cluster.relay
        assert relay is not None
        expected = oracle(cluster.url, asks, threads=4)
        relay.hook = lambda way, data: ([], [[data]] * 10)
        _round(row, cluster, asks, expected, "each message ten times at once", exact=True)
        relay.hook = _old(relay, _is_work)
        for _ in range(plan.count(3)):
            _round(row, cluster, asks, expected, "old messages about requests", exact=True)
        relay.hook = _old(relay, lambda data: True)  # a Welcome means that the router forgot the node
        _round(row, cluster, asks, expected, "old messages of every kind", exact=False)
        relay.hook = lambda way, data: ([], [])
        row.verified = 1
        row.notes.append(f"{relay.extra['up']:,} repeated to the router, {relay.extra['down']:,} to nodes")
        _conclude(row, cluster, f"{row.wrong} requests wrong", row.wrong)
    return row


def _is_work(data: bytes) -> bool:
    return mutate.unpacked(data)[0] not in ("Hello", "Welcome")


def _old(relay: Relay, wanted: Callable[[bytes], bool]) -> Hook:
    """Ten old messages of the same connection behind each new one, in the order of their time."""
    past: dict[tuple[str, bytes], list[bytes]] = defaultdict(list)
    for way, messages in relay.passed.items():
        for identity, data in messages:
            if wanted(data):
                past[way, identity].append(data)
    turn: dict[tuple[str, bytes], int] = defaultdict(int)

    def hook(way: str, data: bytes) -> tuple[list[list[bytes]], list[list[bytes]]]:
        key = way, relay.current
        old = past.get(key, [])
        start, turn[key] = turn[key], turn[key] + 10
        return [], [[old[n % len(old)]] for n in range(start, start + 10) if old]

    return hook


def _round(
    row: Row, cluster: ByHand, asks: list[Ask], expected: list[Outcome], what: str, *, exact: bool
) -> None:
    """All requests once. ``exact``: no error is allowed either, by whatever name."""
    found = run_all(cluster.url, asks, threads=4)
    equal = sum(got.equals(want) for got, want in zip(found, expected, strict=True))
    pairs = [(got, want) for got, want in zip(found, expected, strict=True) if not got.equals(want)]
    named = sum(got.begins(want) and got.code is not None for got, want in pairs)
    row.units += len(found)
    row.equal += equal
    row.named += 0 if exact else named
    codes = sorted({str(got.code or got.error) for got, _ in pairs})
    row.notes.append(f"{what}: {equal} of {len(found)} equal, {named} by name {codes or ''}")


SCENARIOS: dict[str, Scenario] = {"F15b": f15b, "F18b": f18b}
