"""One partition under load, from the first packet lost to the last request judged.

Knows the ways that are cut and when all is whole again; which ones and how long is ``scenario_network``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from badwire import Fault, Way
from manyhosts import ManyHosts
from netload import LONG, PATIENCE_S, SHORT, Drip, Found, attempts, silence
from report import FaultMissing
from streams import Ask, Flight, Outcome

HEALS_S = 10.0
GIVE_UP_S = 45.0  # on a deployment that does not heal
APART_S = 1.8  # between the deaths of a connection's two ways
SEEN_S = 4.0  # until the end that saw a connection die last has given it up
CUT = Fault(cut=True)

Through = Callable[[Outcome], bool]


@dataclass(frozen=True, slots=True)
class Cut:
    """``ways`` carry nothing for ``seconds``. ``through`` says of a reply that it came where the cut was."""

    name: str
    ways: tuple[Way, ...]
    seconds: float
    through: Through


def partition(hosts: ManyHosts, found: Found, cut: Cut) -> None:
    """One cut under load, from the first packet lost to the last request judged. Raises FaultMissing."""
    flight = _under_way(hosts)
    before, cut_at = _cut_packets(hosts, cut.ways), time.monotonic()
    hosts.wire.set(cut.ways, CUT)
    drip = Drip(hosts.url)
    watch(hosts, cut.seconds)
    after, healed_at = _cut_packets(hosts, cut.ways), time.monotonic()
    hosts.wire.heal()
    came, healed_s = heal(hosts, cut.through, healed_at)
    came += [*zip(LONG, flight.land(), strict=True), *drip.stop()]
    if any(after[way] <= before[way] for way in cut.ways):
        raise FaultMissing(f"{cut.name}: {before} packets cut, then {after}")
    _judge(hosts, found, cut, came, cut_at, healed_s, sum(after.values()) - sum(before.values()))


def half_open(hosts: ManyHosts, found: Found, cut: Cut) -> None:
    """The connections that lie on ``cut.ways`` die in silence, one way after the other ``APART_S`` later, so
    that one end gives up and comes back while the other end still believes in the old connection.
    """
    flight = _under_way(hosts)
    before, cut_at = _cut_packets(hosts, cut.ways), time.monotonic()
    drip = Drip(hosts.url)
    for way in cut.ways:
        hosts.wire.forget([way])
        watch(hosts, APART_S)
    seen_at = time.monotonic() + SEEN_S
    came, healed_s = heal(hosts, cut.through, seen_at)
    came += [*zip(LONG, flight.land(), strict=True), *drip.stop()]
    after = _cut_packets(hosts, cut.ways)
    if any(after[way] <= before[way] for way in cut.ways):
        raise FaultMissing(f"{cut.name}: {before} packets forgotten, then {after}")
    _judge(hosts, found, cut, came, cut_at, healed_s, sum(after.values()) - sum(before.values()))


def _judge(
    hosts: ManyHosts,
    found: Found,
    cut: Cut,
    came: Sequence[tuple[Ask, Outcome]],
    since: float,
    healed_s: float,
    packets: int,
) -> None:
    hurt = sum(attempts(out) > 1 or out.error is not None for _, out in came)
    found.hurt += hurt
    for ask, out in came:
        found.judge(cut.name, ask, out, since)
    if healed_s > HEALS_S:
        found.problem(f"{cut.name}, {cut.seconds:.1f} s: not whole again until {healed_s:.1f} s after it")
    worst = max(silence(out, since) for _, out in came)
    told = f"{packets} packets dropped, {hurt} of {len(came)} requests hurt, longest silence {worst:.1f} s"
    found.over(hosts, f"{cut.name}, {cut.seconds:.1f} s: {told}, whole {healed_s:.1f} s after it")


def _under_way(hosts: ManyHosts) -> Flight:
    flight = Flight(hosts.url, LONG, PATIENCE_S)
    if not flight.until(lambda outs: sum(out.count > 2 for out in outs) > len(outs) // 2, 30):
        raise FaultMissing("too few streams were under way")
    return flight


def _cut_packets(hosts: ManyHosts, ways: Sequence[Way]) -> dict[Way, int]:
    counts = hosts.wire.counts()
    return {way: counts[way]["cut"] + counts[way]["forgotten"] for way in ways}


def watch(hosts: ManyHosts, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hosts.mend()
        time.sleep(min(0.2, max(0.0, end - time.monotonic())))


def heal(hosts: ManyHosts, through: Through, since: float) -> tuple[list[tuple[Ask, Outcome]], float]:
    """Ask until all nodes are there and one request goes ``through`` at the first attempt. All that was
    asked, and after how many seconds; infinite if it does not come to that.
    """
    came: list[tuple[Ask, Outcome]] = []
    while time.monotonic() < since + GIVE_UP_S:
        asks = SHORT[:2]  # few at a time: an idle deployment chooses by name, so that all go there
        volley = Flight(hosts.url, asks, PATIENCE_S).land()
        came += zip(asks, volley, strict=True)
        good = any(through(out) and attempts(out) == 1 for out in volley if out.error is None)
        if good and hosts.together():
            return came, max(0.0, time.monotonic() - since)
        watch(hosts, 0.5)
    return came, float("inf")


def served_by(**nodes: str) -> Through:
    return lambda out: all(out.node(role) == name for role, name in nodes.items())
