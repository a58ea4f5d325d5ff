"""F9 and F10: the network between hosts is cut, or is bad. Every request ends as it should, and none hangs.

Knows which links are hurt, how and for how long; ``manyhosts`` makes the hosts, ``badwire`` and ``badproxy``
do the harm, ``cuts`` and ``netload`` hold the deployment to what it owes. Without root there are no scenarios
here, and a line says so.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import netns
from badproxy import BadProxy, End, Toxic
from badwire import Fault
from cuts import APART_S, SEEN_S, Cut, Through, half_open, heal, partition, served_by, watch
from manyhosts import HANDOFF, MAILBOX, ROUTER, ManyHosts
from netload import ENDS_S, LONG, PATIENCE_S, SHORT, Found, attempts, expect, silence
from report import FaultMissing, Plan, Row, Scenario
from streams import Ask, run_all, stream

WAITS_S = 30.0  # longest silence over a bad wire
JOINS_S = 30.0  # over a bad wire, when all connections were lost
NODES = ("--no-prefix-caching",)  # so that every request's KV goes over the wire

# --- F9: cut ------------------------------------------------------------------------------------------------

LINKS: dict[tuple[str, str], Through] = {
    ("router", "decode-0"): served_by(decode="decode-0"),
    ("prefill-0", "decode-0"): served_by(prefill="prefill-0", decode="decode-0"),
    ("router", "prefill-0"): served_by(prefill="prefill-0"),
}


def _cuts(a: str, b: str, seconds: float, through: Through) -> list[Cut]:
    both, there, back = ((a, b), (b, a)), ((a, b),), ((b, a),)
    return [
        Cut(f"{a} <-> {b}", both, seconds, through),
        Cut(f"{a} -> {b}", there, seconds, through),
        Cut(f"{b} -> {a}", back, seconds, through),
    ]


def links(plan: Plan) -> Row:
    row = Row("F9a", "a link is cut for 10 s, both ways and each way alone", bound_s=ENDS_S)
    row.notes.append(f"each link and way once, not {plan.repeats} times")
    cuts = [cut for link, through in LINKS.items() for cut in _cuts(*link, 10.0, through)]
    with ManyHosts(2, 2, f"{plan.seed}/F9a", *NODES) as hosts:
        found = expect(hosts, row, [*LONG, *SHORT])
        for cut in cuts[: plan.count(len(cuts))]:
            partition(hosts, found, cut)
            plan.step(cut.name)
    return _hurt(found)


def links_together(plan: Plan) -> Row:
    """A minute each: all three links at once, so that it takes three minutes and not nine. Nodes of the
    third pair reach everybody.
    """
    row = Row("F9b", "three links are cut for 60 s at once, both ways and each way alone", bound_s=ENDS_S)
    row.notes.append(f"each way once, not {plan.repeats} times")
    chosen = [("router", "decode-0"), ("prefill-1", "decode-1"), ("router", "prefill-0")]
    with ManyHosts(3, 3, f"{plan.seed}/F9b", *NODES) as hosts:
        found = expect(hosts, row, [*LONG, *SHORT])
        for name, order in (("both ways", (1, -1)), ("there", (1,)), ("back", (-1,))):
            ways = tuple((a, b) if step > 0 else (b, a) for a, b in chosen for step in order)
            lasting = max(5.0, 60.0 * min(1.0, plan.scale))
            partition(hosts, found, Cut(name, ways, lasting, LINKS["prefill-0", "decode-0"]))
            plan.step(name)
    return _hurt(found)


def moments(plan: Plan) -> Row:
    """Cuts that end about when either side gives the other up: the two must come to agree."""
    row = Row("F9c", "cuts of 1 to 5 s, at random links and ways", bound_s=ENDS_S)
    repeats = min(plan.repeats, 10)
    row.notes.append(f"{repeats} cuts, of {plan.repeats} that were asked for")
    with ManyHosts(2, 2, f"{plan.seed}/F9c", *NODES) as hosts:
        found = expect(hosts, row, [*LONG, *SHORT])
        for chance in itertools.islice(plan.seeds(), repeats):
            link = chance.choice(sorted(LINKS))
            cut = chance.choice(_cuts(*link, chance.uniform(1.0, 5.0), LINKS[link]))
            partition(hosts, found, cut)
            plan.step(cut.name)
    return row


def forgotten(plan: Plan) -> Row:
    row = Row("F9d", "connections die in silence, at one end first", bound_s=ENDS_S)
    row.notes.append(f"each link and way once, not {plan.repeats} times")
    with ManyHosts(2, 2, f"{plan.seed}/F9d", *NODES) as hosts:
        found = expect(hosts, row, [*LONG, *SHORT])
        for (a, b), through in LINKS.items():
            for ways in (((a, b), (b, a)), ((b, a), (a, b))):
                half_open(hosts, found, Cut(f"{ways[0][0]} -> {ways[0][1]} first", ways, APART_S, through))
                plan.step(str(ways))
    return row


def pairs(plan: Plan) -> Row:
    """Which pairs reach each other shows only when they fail: a pair that works is to be found."""
    row = Row("F9e", "two of four pairs are cut, then the other two, then all", bound_s=ENDS_S)
    row.notes.append(f"each once, not {plan.repeats} times")
    p0, p1, d0, d1 = "prefill-0", "prefill-1", "decode-0", "decode-1"
    with ManyHosts(2, 2, f"{plan.seed}/F9e", *NODES) as hosts:
        found = expect(hosts, row, [*LONG, *SHORT])
        for name, cut in {
            "two sites": [(p0, d0), (p1, d1)],
            "two sites, crosswise": [(p0, d1), (p1, d0)],
            "all": [(p, d) for p in (p0, p1) for d in (d0, d1)],
        }.items():
            named = found.row.named
            both = tuple(way for a, b in cut for way in ((a, b), (b, a)))
            partition(hosts, found, Cut(name, both, 10.0, LINKS[p0, d0]))
            row.notes.append(f"{name}: {found.row.named - named} requests ended by name")
            plan.step(name)
    return _hurt(found)


def resets(plan: Plan) -> Row:
    """What is on a connection when it is reset is lost, in both directions; the node is back at once."""
    row = Row("F9f", "connections of nodes to the router are reset under load", bound_s=ENDS_S)
    repeats = min(plan.repeats, 10)
    row.notes.append(f"{repeats} resets, of {plan.repeats} that were asked for")
    with ManyHosts(2, 2, f"{plan.seed}/F9f", *NODES) as hosts, contextlib.ExitStack() as stack:
        found = expect(hosts, row, [*LONG, *SHORT])
        router, nodes = hosts.hosts[ROUTER], [host for host in hosts.hosts.values() if host.name != ROUTER]
        lines = {node.name: stack.enter_context(BadProxy(node, router, MAILBOX)) for node in nodes}
        hosts.wire.forget(hosts.wire.every_way())
        hosts.until(lambda: all(line.carried for line in lines.values()) and hosts.together(), 60)
        for chance in itertools.islice(plan.seeds(), repeats):
            name = chance.choice(sorted(lines))
            _reset(hosts, found, name, lines[name], chance.randrange(4000))
            plan.step(name)
    return row


def _reset(hosts: ManyHosts, found: Found, name: str, line: BadProxy, after: int) -> None:
    ended, asks = line.ended, [*LONG[:2], *SHORT, *SHORT]
    since = time.monotonic()
    line.set(Toxic(end=End.RESET, end_after=after, lag=0.3))
    outcomes = run_all(hosts.url, asks, 6, PATIENCE_S)
    line.set(Toxic())
    if line.ended == ended:
        raise FaultMissing(f"{name}: its connection was not reset after {after} bytes")
    for ask, out in zip(asks, outcomes, strict=True):
        found.judge(f"{name} reset after {after} bytes", ask, out, since)
    found.over(hosts, "")


def _hurt(found: Found) -> Row:
    """Packets were cut in each run; that this was noticed is asked of all runs together."""
    if not found.hurt:
        raise FaultMissing(f"of {found.row.units} requests none was tried again or ended by name")
    return found.row


# --- F10: bad -----------------------------------------------------------------------------------------------

WAN = Fault(delay_s=0.2, jitter_s=0.05, loss=0.02, reorder=0.05, duplicate=0.01)
SLOW = 64 * 1024.0  # bytes a second


@dataclass(frozen=True, slots=True)
class Weather:
    """What all links suffer, and the counts that prove it."""

    name: str
    fault: Fault
    signs: tuple[str, ...]


ALONE = [
    Weather("200 ms +-50", Fault(delay_s=0.2, jitter_s=0.05), ("delayed",)),
    Weather("loss 2%", Fault(loss=0.02), ("lost",)),
    Weather("20 ms, reorder 5%", Fault(delay_s=0.02, reorder=0.05), ("overtaken",)),
    Weather("duplicate 1%", Fault(duplicate=0.01), ("doubled",)),
    Weather("64 KB/s", Fault(rate=SLOW), ("throttled",)),
]


def worst_weather(plan: Plan) -> Row:
    row = Row("F10a", "all links: 200 ms +-50, loss 2%, reorder 5%, duplicate 1%", bound_s=WAITS_S)
    row.notes.append(f"once, not {plan.repeats} times")
    with ManyHosts(2, 2, f"{plan.seed}/F10a", *NODES) as hosts:
        found = expect(hosts, row, [*LONG, *SHORT])
        _under(
            hosts, found, Weather("all", WAN, ("delayed", "lost", "overtaken", "doubled")), plan.count(48, 8)
        )
        hosts.wire.heal()
    return row


def each_alone(plan: Plan) -> Row:
    row = Row("F10b", "all links: delay, loss, reorder, duplicate, 64 KB/s, each alone", bound_s=WAITS_S)
    row.notes.append(f"each once, not {plan.repeats} times")
    with ManyHosts(2, 2, f"{plan.seed}/F10b", *NODES) as hosts:
        found = expect(hosts, row, [*LONG, *SHORT])
        for weather in ALONE:
            _under(hosts, found, weather, plan.count(16, 8))
            hosts.wire.heal()
            plan.step(weather.name)
    return row


def _under(hosts: ManyHosts, found: Found, weather: Weather, count: int) -> None:
    """Bad weather on all links, those of the router included, over old connections and then over new ones."""
    hosts.wire.set(hosts.wire.every_way(), weather.fault)
    since, before = time.monotonic(), _total(hosts)
    asks = [SHORT[n % len(SHORT)] for n in range(count)] + LONG
    came = list(zip(asks, run_all(hosts.url, asks, 6, PATIENCE_S), strict=True))
    took, seen = time.monotonic() - since, _total(hosts) - before
    if missing := [sign for sign in weather.signs if not seen[sign]]:
        raise FaultMissing(f"no packet was {missing}: {seen}")
    joins_s = _join_again(hosts, found)
    for ask, out in came:
        found.judge(weather.name, ask, out, since, WAITS_S)
    again = sum(attempts(out) > 1 for _, out in came)
    told = ", ".join(f"{seen[sign]} {sign}" for sign in ("carried", *weather.signs))
    told = f"packets {told}; {again} of {len(came)} tried again; {took:.0f} s"
    found.over(hosts, f"{weather.name}: {told}; all connections lost: whole {joins_s:.1f} s after")


def _join_again(hosts: ManyHosts, found: Found) -> float:
    """While the wire is bad all connections are lost. Seconds until all is whole again."""
    since = time.monotonic()
    hosts.wire.forget(hosts.wire.every_way())
    watch(hosts, SEEN_S + 1.0)
    came, whole_s = heal(hosts, lambda _: True, since)
    for ask, out in came:
        found.judge("while joining again", ask, out, since, None)
    if whole_s > JOINS_S:
        found.problem(f"all connections lost: not whole again until {whole_s:.1f} s after")
    return whole_s


def _total(hosts: ManyHosts) -> Counter[str]:
    return sum(hosts.wire.counts().values(), Counter())


def proxies(plan: Plan) -> Row:
    """A proxy stands on each of the four links between prefill and decode."""
    row = Row(
        "F10c", "proxies between prefill and decode: slices, 64 KB/s, cut at every 1/16", bound_s=ENDS_S
    )
    row.notes.append(f"each once, not {plan.repeats} times")
    with ManyHosts(2, 2, f"{plan.seed}/F10c", *NODES) as hosts, contextlib.ExitStack() as stack:
        found = expect(hosts, row, [*LONG, *SHORT])
        roads = [(p, d) for p in hosts.hosts for d in hosts.hosts if (p[0], d[0]) == ("p", "d")]
        ends = [(hosts.hosts[p], hosts.hosts[d]) for p, d in roads]
        found_proxies = [stack.enter_context(BadProxy(p, d, HANDOFF)) for p, d in ends]
        hosts.wire.forget(way for p, d in roads for way in ((p, d), (d, p)))
        hosts.until(lambda: _carries(hosts, found_proxies), 30)
        _throttled(hosts, found, found_proxies, Toxic(piece=1), SHORT[:4])
        _throttled(hosts, found, found_proxies, Toxic(rate=SLOW), SHORT)
        _cut_at_every_sixteenth(plan, hosts, found, found_proxies)
    return row


def _carries(hosts: ManyHosts, proxies: Sequence[BadProxy]) -> bool:
    """Whether a request's bytes go through a proxy."""
    return stream(hosts.url, SHORT[0]).error is None and any(proxy.carried for proxy in proxies)


def _throttled(
    hosts: ManyHosts, found: Found, proxies: Sequence[BadProxy], toxic: Toxic, asks: Sequence[Ask]
) -> None:
    for proxy in proxies:
        proxy.set(toxic)
    since, writes = time.monotonic(), sum(proxy.writes for proxy in proxies)
    carried, named = sum(proxy.carried for proxy in proxies), found.row.named
    came = zip(asks, run_all(hosts.url, asks, 4, PATIENCE_S), strict=True)
    writes, carried = sum(p.writes for p in proxies) - writes, sum(p.carried for p in proxies) - carried
    seconds = time.monotonic() - since
    if carried < 10_000 or (toxic.piece and writes < carried / toxic.piece):
        raise FaultMissing(f"{carried} bytes went through the proxies in {writes} writes")
    for ask, out in came:
        found.judge(str(toxic), ask, out, since)
    for proxy in proxies:
        proxy.set(Toxic())
    how = "slices of 1 byte" if toxic.piece else "64 KB/s"
    told = f"{found.row.named - named} of {len(asks)} requests ended by name"
    found.over(hosts, f"{how}: {carried} bytes in {writes} writes and {seconds:.1f} s, {told}")


def _cut_at_every_sixteenth(plan: Plan, hosts: ManyHosts, found: Found, proxies: Sequence[BadProxy]) -> None:
    """One request after the other: its connection ends after k/16 of the bytes that its transfer takes."""
    ask = SHORT[7]
    before = sum(proxy.carried for proxy in proxies)
    stream(hosts.url, ask)
    size = sum(proxy.carried for proxy in proxies) - before
    for end in End:
        worst = 0.0
        for part in range(0, 16, max(1, round(1 / min(1.0, plan.scale)))):
            hosts.until(lambda: _carries(hosts, proxies), 30)  # a connection is there to be cut
            ended = sum(proxy.ended for proxy in proxies)
            for proxy in proxies:
                proxy.set(Toxic(end=end, end_after=size * part // 16))
            since = time.monotonic()
            out = stream(hosts.url, ask, timeout=PATIENCE_S)
            for proxy in proxies:
                proxy.set(Toxic())
            if sum(proxy.ended for proxy in proxies) == ended:
                raise FaultMissing(f"no connection was {end.value} at {part}/16 of {size} bytes")
            found.judge(f"{end.value} at {part}/16", ask, out, since)
            worst = max(worst, silence(out, since))
            found.over(hosts, "")
            plan.step(f"{end.value} at {part}/16")
        found.row.notes.append(f"{end.value} after every 1/16 of {size} bytes: longest silence {worst:.1f} s")


def _everything() -> dict[str, Scenario]:
    nine: dict[str, Scenario] = {
        "F9a": links,
        "F9b": links_together,
        "F9c": moments,
        "F9d": forgotten,
        "F9e": pairs,
        "F9f": resets,
    }
    return nine | {"F10a": worst_weather, "F10b": each_alone, "F10c": proxies}


if (_why := netns.missing()) is None:
    SCENARIOS: dict[str, Scenario] = _everything()
else:
    SCENARIOS = {}
    print(f"F9 and F10 are left out: {_why}", file=sys.stderr)
