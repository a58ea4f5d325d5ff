"""What is promised of many hosts, each as a function that gives rows: promise, what was measured, kept."""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from clients import Clients, Request, requests
from composed import LOCKED_IN, Composed
from estate import ADMIN, HANDOFF, HTTP, MAILBOX, Estate, faked
from load import Told, all_of, oracle, peak_rate, running
from measure import percentile
from probes import listeners, says_something
from soak import Trouble, excused, kinds

Row = tuple[str, str, bool]
Scenario = Callable[[argparse.Namespace], list[Row]]
SIZES = ("--kv-cache-memory", "128MiB", "--threads-per-worker", "1")
TWO_ROUTERS = ("router-a", "router-b")


def replay(options: argparse.Namespace) -> list[Row]:
    """two routers, two prefill nodes and a decode node: every token is the oracle's"""
    bodies = requests(options.requests, seed=1)
    expected = oracle(options.model, bodies)
    names = (*TWO_ROUTERS, "prefill-0", "prefill-1", "decode-0")
    with Estate(names, options.model, SIZES, ("--disaggregate", "always")) as estate:
        before = estate.bridge.sent()
        told = all_of(Clients([estate.url(name) for name in TWO_ROUTERS], at_once=16), bodies)
        sent = {name: bytes_ - before[name] for name, bytes_ in estate.bridge.sent().items()}
        moved = sum(estate.metric(name, "pagewire:handoff_bytes_total") for name in TWO_ROUTERS)
        took = sum(estate.metric(name, "pagewire:handoff_seconds_sum") for name in TWO_ROUTERS)
        print(
            f"{len(bodies)} requests in {told.seconds:.1f} s; KV {moved / 1e6:.0f} MB in handoffs that took "
            f"{took:.2f} s in all: {moved / took / 1e9:.3f} GB/s"
        )
        for name, bytes_ in sent.items():
            print(f"  {name:<12} sent {bytes_ / 1e6:9.2f} MB, {bytes_ / told.seconds / 1e9:.4f} GB/s")
        return [*_right(told, expected), _nobody_ended(estate)]


def redis(options: argparse.Namespace) -> list[Row]:
    """F8: redis killed, restarted empty, and stopped"""
    rows: list[Row] = []
    with _standing(options) as (estate, peak, bodies, expected):
        rate = 0.6 * peak
        for how in ("killed", "stopped"):
            seconds = options.seconds
            count = int(rate * (seconds + 20))
            with running(_clients(estate, rate=rate), bodies[:count]) as told:
                time.sleep(2)
                if how == "killed":
                    estate.signal("redis", signal.SIGKILL)
                    estate.wait("redis", 5)
                    time.sleep(seconds)
                    estate.start("redis")
                else:
                    estate.signal("redis", signal.SIGSTOP)
                    time.sleep(seconds)
                    estate.signal("redis", signal.SIGCONT)
                back = estate.until(lambda: _registered(estate) == len(estate.nodes) + 2, 60)
            rows += [
                (f"{how} for {seconds:g} s: all are registered again in 10 s", f"{back:.1f} s", back <= 10),
                *[(f"{how}: {what}", came, kept) for what, came, kept in _right(told, expected)],
            ]
        rows.append(_nobody_ended(estate))
    return rows


def router(options: argparse.Namespace) -> list[Row]:
    """F4: a router is killed, and the other serves on"""
    with _standing(options) as (estate, peak, bodies, expected):
        rate = 0.6 * peak
        with running(_clients(estate, rate=rate), bodies[: int(rate * 20)]) as told:
            time.sleep(6)
            estate.signal("router-a", signal.SIGKILL)
            killed = time.monotonic()
            estate.wait("router-a", 5)
        late = [outcome for outcome in told.outcomes if outcome.sent_at > killed]
        early = Told([outcome for outcome in told.outcomes if outcome.sent_at <= killed])
        broken = [outcome for outcome in early.failed if "broke" not in outcome.error]
        held = _held_after(estate, "router-b", 30)
        return [
            (
                "streams of the router that was killed break; no other fails",
                f"{len(early.failed)} broke",
                not broken,
            ),
            ("new requests: none fails", f"{len(Told(late).failed)} of {len(late)}", not Told(late).failed),
            ("tokens are the oracle's", f"{told.wrong(expected)} differ", not told.wrong(expected)),
            ("nothing is held for it", f"{held:.0f} pages", not held),
        ]


def rolling(options: argparse.Namespace) -> list[Row]:
    """F24: every node and both routers are restarted, one after the other, at 70% of the peak"""
    nodes = ("prefill-0", "prefill-1", "decode-0", "decode-1")
    with _standing(options, nodes) as (estate, peak, bodies, expected):
        rate, drains, codes = 0.7 * peak, [], []
        with running(_clients(estate, rate=rate), bodies[: int(rate * options.rolling_s)]) as told:
            time.sleep(3)
            for name in (*nodes, *TWO_ROUTERS):
                began = time.monotonic()
                estate.signal(name, signal.SIGTERM)
                codes.append(estate.wait(name, 60))
                drains.append(time.monotonic() - began)
                estate.start(name)
                estate.until(estate.together, 90)
            took = time.monotonic() - began
        print(
            f"at {rate:.1f} requests/s; drains took {', '.join(f'{s:.1f}' for s in drains)} s; {took:.0f} s"
        )
        return [
            ("each exits with 0", str(codes), not any(codes)),
            ("each drains within 30 s", f"{max(drains):.1f} s at most", max(drains) <= 31),
            *_right(told, expected),
        ]


def drain(options: argparse.Namespace) -> list[Row]:
    """F25: a decode node is told to stop under long streams: they go on elsewhere before it exits"""
    bodies = requests(6, seed=4, answer=(1400, 1500), prompt=(8, 40))
    expected = oracle(options.model, bodies)
    names = ("router-a", "prefill-0", "decode-0", "decode-1")
    # One decode node has pages for all of them at the end, so that those that move need not wait for others.
    sizes = ("--kv-cache-memory", "512MiB", "--threads-per-worker", "1")
    with Estate(names, options.model, sizes, ("--disaggregate", "always"), grace=5.0) as estate:
        with running(Clients([estate.url("router-a")], at_once=8), bodies) as told:
            estate.until(lambda: _gauge(estate, "router-a", "decode-0", "live"), 30)
            time.sleep(2)
            began = time.monotonic()
            estate.signal("decode-0", signal.SIGTERM)
            code = estate.wait("decode-0", 60)
            took = time.monotonic() - began
        moved = estate.metric("router-a", "pagewire:request_retries_total")
        return [
            ("it exits with 0", f"{code}", code == 0),
            ("within its grace of 5 s", f"{took:.1f} s", took <= 7),
            ("what was left goes on elsewhere", f"{moved:.0f} moved", moved > 0),
            *_right(told, expected),
        ]


def ports(options: argparse.Namespace) -> list[Row]:
    """F17: what listens, and what says anything to somebody without the secret"""
    names = ("router-a", "prefill-0", "decode-0", "worker-0")
    rows: list[Row] = []
    with Estate(names, options.model, SIZES) as estate:
        meant = {
            "router-a": {HTTP, MAILBOX},
            "prefill-0": set(),
            "decode-0": {HANDOFF},
            "worker-0": {HANDOFF},
        }
        for name in names:
            found = listeners(estate.bridge, name)
            rows.append((f"{name} listens where it was told", f"{sorted(found)}", found == meant[name]))
            for port in found - {HTTP}:
                answer = says_something(estate.bridge.addresses[name], port)
                rows.append((f"{name}:{port} says nothing to strangers", answer or "nothing", not answer))
    return rows


def roles(options: argparse.Namespace) -> list[Row]:
    """twenty changes of role at random moments under load, by pagewire role"""
    workers = [f"worker-{number}" for number in range(4)]
    dice, took = random.Random(5), []
    with _standing(options, workers, ("router-a",), ("--admin-port", str(ADMIN))) as standing:
        estate, peak, bodies, expected = standing
        rate = 0.6 * peak
        with running(_clients(estate, rate=rate), bodies[: int(rate * 5 * options.flips)]) as told:
            time.sleep(2)
            for _ in range(options.flips):
                took.append(_flip(estate, dice, workers))
                time.sleep(dice.uniform(0.5, 4.0))
        retries = estate.metric("router-a", "pagewire:request_retries_total")
        print(f"{options.flips} changes; from the command to the router's knowing: {sorted(took)} ms")
        return [
            ("a second from command to role", f"{max(took):.0f} ms at most", max(took) <= 1000),
            ("no request is tried twice for it", f"{retries:.0f}", retries == 0),
            *_right(told, expected),
            _nobody_ended(estate),
        ]


def compose(options: argparse.Namespace) -> list[Row]:
    """compose.yaml: the very command and environment of each service, locked in as compose locks it in"""
    names = ("router-0", "prefill-0", "prefill-1", "decode-0")
    bodies = requests(60, seed=9)
    expected = oracle("demo", bodies)
    with Composed(names, {"PAGEWIRE_KV_CACHE": "128MiB"}) as estate:
        rows = []
        for name in ("redis", *names):
            status = estate.status(name)
            rows.append((f"{name} may do nothing that root may", status, status == LOCKED_IN))
        told = all_of(Clients([estate.url("router-0")], at_once=8, key=estate.key), bodies)
        stranger = all_of(Clients([estate.url("router-0")], at_once=1), bodies[:1])
        refused = bool(stranger.failed) and "401" in stranger.failed[0].error
        for name in reversed(names):
            estate.signal(name, signal.SIGTERM)
        codes = [estate.wait(name, 60) for name in names]
        return [
            *rows,
            ("who has no key is refused", stranger.failed[0].error[:40], refused),
            *_right(told, expected),
            ("all exit with 0 on SIGTERM", str(codes), not any(codes)),
        ]


def clock(options: argparse.Namespace) -> list[Row]:
    """F28: clocks an hour ahead and behind, on a router and on nodes (libfaketime)"""
    names = (*TWO_ROUTERS, "prefill-0", "decode-0")
    bodies = requests(120, seed=6)
    expected = oracle(options.model, bodies)
    wrong = {"router-b": "+1h", "prefill-0": "-1h", "decode-0": "+3600s"}
    with Estate(names, options.model, SIZES, ("--disaggregate", "always"), faked_clocks=wrong) as estate:
        told = all_of(_clients(estate, at_once=8), bodies)
        hours = estate.bridge.output("router-b", "env", *faked("+1h"), "date", "+%s")
        apart = int(hours) - time.time()
        return [
            ("the clocks are that far apart", f"{apart:.0f} s", abs(apart - 3600) < 5),
            *_right(told, expected),
            _nobody_ended(estate),
        ]


def soak(options: argparse.Namespace) -> list[Row]:
    """hours of load with a random fault a minute: nothing wrong, nothing leaked, nothing that grows"""
    nodes = ("prefill-0", "prefill-1", "decode-0", "decode-1")
    bodies = requests(400, seed=8)
    expected = oracle(options.model, bodies)
    with Estate((*TWO_ROUTERS, *nodes), options.model, SIZES, ("--disaggregate", "always")) as estate:
        peak = peak_rate(lambda at_once: _clients(estate, at_once=at_once), bodies[:120])
        rate = 0.4 * peak
        print(f"peak {peak:.1f} requests/s, load {rate:.1f}/s, seed {options.seed}")
        trouble = Trouble(estate, options.seed)
        clients = _clients(estate, rate=rate, seconds=60 * options.minutes)
        with running(clients, bodies) as told:
            trouble.run(options.minutes)
        held = _held_after(estate, "router-a", 60)
        lost = [o for o in told.failed if o not in excused(told.failed, trouble.router_kills)]
        for outcome in lost[:10]:
            print(f"  request {outcome.number} failed: {outcome.error}")
        share = 1 - len(lost) / len(told.outcomes)
        slowest = max((fault.together_s or 0.0 for fault in trouble.faults), default=0.0)
        print(f"{len(told.failed) - len(lost)} streams broke in {len(trouble.router_kills)} kills of routers")
        print("faults:", ", ".join(f"{count} {kind}" for kind, count in kinds(trouble.faults).items()))
        rows = [
            (
                "availability, but for streams of killed routers",
                f"{share:.3%} of {len(told.outcomes)}",
                share >= 0.999,
            ),
            ("wrong tokens", f"{told.wrong(expected)}", not told.wrong(expected)),
            ("pages held at the end", f"{held:.0f}", not held),
            ("together again after a fault", f"{slowest:.0f} s at most", slowest <= 60),
        ]
        for name, (memory, files) in trouble.watched.slopes().items():
            rows.append(
                (f"{name} does not grow", f"{memory / 1e6:+.1f} MB/h, {files:+.2f} files/h", memory < 50e6)
            )
        return rows


# --- pieces ----------------------------------------------------------------------------------------------


class Standing(NamedTuple):
    """A cluster under no load yet, its peak in requests a second, and requests with the oracle's answers."""

    estate: Estate
    peak: float
    bodies: list[Request]
    expected: list[list[int]]


@contextmanager
def _standing(
    options: argparse.Namespace,
    nodes: Sequence[str] = ("prefill-0", "prefill-1", "decode-0"),
    routers: Sequence[str] = TWO_ROUTERS,
    router_args: Sequence[str] = (),
) -> Iterator[Standing]:
    bodies = requests(options.load, seed=2)
    expected = oracle(options.model, bodies)
    with Estate(
        (*routers, *nodes), options.model, SIZES, ("--disaggregate", "always", *router_args)
    ) as estate:
        peak = peak_rate(lambda at_once: _clients(estate, at_once=at_once), bodies[:120])
        print(f"peak: {peak:.1f} requests/s")
        yield Standing(estate, peak, bodies, expected)


def _clients(estate: Estate, *, at_once: int = 0, rate: float = 0.0, seconds: float = 0.0) -> Clients:
    urls = [estate.url(name) for name in estate.routers]
    return Clients(urls, at_once=at_once, rate=rate, seconds=seconds)


def _right(told: Told, expected: Sequence[Sequence[int]]) -> list[Row]:
    failed, wrong = told.failed, told.wrong(expected)
    for outcome in failed[:5]:
        print(f"  request {outcome.number} failed: {outcome.error}")
    again = sum(outcome.tries > 1 for outcome in told.outcomes)
    ttft, gap = (
        percentile([getattr(o, name) for o in told.outcomes], 99) for name in ("ttft_s", "worst_gap_s")
    )
    print(
        f"  {len(told.outcomes)} requests in {told.seconds:.0f} s, {again} asked a second time; p99 of TTFT "
        f"{ttft:.2f} s, of a stream's longest gap {gap:.2f} s"
    )
    return [
        ("no request fails", f"{len(failed)} of {len(told.outcomes)}", not failed),
        ("tokens are the oracle's", f"{wrong} of {len(told.outcomes) - len(failed)} differ", not wrong),
    ]


def _nobody_ended(estate: Estate) -> Row:
    ended = estate.ended()
    return "no process ends", ", ".join(ended) or "none", not ended


def _registered(estate: Estate) -> int:
    """Entries of the directory, as ``pagewire members`` lists them."""
    return len(estate.members())


def _gauge(estate: Estate, router: str, node: str, name: str) -> float:
    found = {each["node"]: each["load"]["gauges"] for each in estate.health(router)["nodes"]}
    return float(found.get(node, {}).get(name, 0.0))


def _held_after(estate: Estate, router: str, seconds: float) -> float:
    """Pages that nodes still hold for somebody when so much time has passed, or 0 before that."""
    end = time.monotonic() + seconds
    while (held := _held(estate, router)) and time.monotonic() < end:
        time.sleep(0.2)
    return held


def _held(estate: Estate, router: str) -> float:
    nodes = estate.health(router)["nodes"]
    return float(sum(node["load"]["gauges"].get("pages_leased", 0) for node in nodes))


def _flip(estate: Estate, dice: random.Random, workers: Sequence[str]) -> float:
    """One worker to the other role, if that leaves both with somebody. Milliseconds until its router knew."""
    now = {node["node"]: node["role"] for node in estate.health("router-a")["nodes"]}
    able = [name for name in workers if list(now.values()).count(now[name]) > 1]
    name = dice.choice(able)
    return estate.take_role("router-a", name, "decode" if now[name] == "prefill" else "prefill")


SCENARIOS = (replay, redis, router, rolling, drain, ports, roles, compose, clock, soak)
ALL: dict[str, Scenario] = {f.__name__: f for f in SCENARIOS}


def told() -> str:
    """For --help."""
    return "; ".join(f"{name}: {(f.__doc__ or '').strip()}" for name, f in ALL.items())
