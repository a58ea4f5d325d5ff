"""Hosts with a network of their own: the bad wire does what it says, and a deployment over it keeps its word.

`make chaos` has the long forms (F9, F10). These need Linux and root, and are skipped without.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

import netns
from badwire import BadWire, Fault
from manyhosts import ManyHosts
from netload import LONG, SHORT, expect
from report import Row
from streams import Flight, run_all

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing())),
]

SIZE = 400_000


@pytest.fixture
def two_hosts() -> Iterator[tuple[netns.Host, netns.Host, BadWire]]:
    here, there = netns.host("here", "10.77.0.1"), netns.host("there", "10.77.0.2")
    with BadWire([here, there], "seed") as wire:
        yield here, there, wire
    here.close()
    there.close()


def carry(here: netns.Host, there: netns.Host) -> float:
    """``SIZE`` bytes over TCP; seconds until they were all there, unchanged."""
    with there.inside():
        listener = socket.create_server((there.address, 5000))
    with here.inside():
        near = socket.create_connection((there.address, 5000), timeout=20)
    far, _ = listener.accept()
    far.settimeout(20)
    sent, came, since = bytes(n % 251 for n in range(SIZE)), bytearray(), time.monotonic()
    thread = threading.Thread(target=near.sendall, args=(sent,))
    thread.start()
    while len(came) < SIZE:
        came += far.recv(1 << 16)
    thread.join()
    for end in (near, far, listener):
        end.close()
    assert came == sent
    return time.monotonic() - since


@pytest.mark.parametrize(
    ("fault", "sign"),
    [
        (Fault(delay_s=0.05, jitter_s=0.02), "delayed"),
        (Fault(loss=0.05), "lost"),
        (Fault(delay_s=0.01, reorder=0.2), "overtaken"),
        (Fault(duplicate=0.2), "doubled"),
        (Fault(rate=1e6), "throttled"),
    ],
)
def test_tcp_survives_and_the_wire_counts(
    two_hosts: tuple[netns.Host, netns.Host, BadWire], fault: Fault, sign: str
) -> None:
    here, there, wire = two_hosts
    wire.set(wire.every_way(), fault)
    took = carry(here, there)
    assert wire.counts()["here", "there"][sign] > 0
    assert took > (0.3 if fault.rate else 0.0)


def test_a_cut_is_one_way_and_a_forgotten_connection_stays_dead(
    two_hosts: tuple[netns.Host, netns.Host, BadWire],
) -> None:
    here, there, wire = two_hosts
    with there.inside():
        listener = socket.create_server((there.address, 5000))
    with here.inside():
        near = socket.create_connection((there.address, 5000), timeout=5)
    far, _ = listener.accept()
    far.settimeout(0.5)
    wire.set([("here", "there")], Fault(cut=True))
    near.send(b"x")
    with pytest.raises(TimeoutError):
        far.recv(1)
    far.send(b"y")
    assert near.recv(1) == b"y"
    wire.heal()
    far.settimeout(10)
    assert far.recv(1) == b"x"
    wire.forget(wire.every_way())
    near.send(b"z")
    far.settimeout(0.5)
    with pytest.raises(TimeoutError):
        far.recv(1)
    counts = wire.counts()["here", "there"]
    assert counts["cut"] > 0
    assert counts["forgotten"] > 0
    for end in (near, far, listener):
        end.close()
    carry(here, there)


def test_a_deployment_in_bad_weather_and_behind_a_cut() -> None:
    """The documented commands, a host each, with one node of a kind: what is cut off has to come back."""
    row, asks = Row("quick", ""), [*SHORT[:4], LONG[0]]
    ways = [("router", "decode-0"), ("decode-0", "router")]
    with ManyHosts(1, 1, "quick", "--no-prefix-caching") as hosts:
        found = expect(hosts, row, asks)
        hosts.wire.set(hosts.wire.every_way(), Fault(0.02, 0.01, loss=0.02, reorder=0.05, duplicate=0.02))
        for ask, out in zip(asks, run_all(hosts.url, asks, 4), strict=True):
            found.judge("weather", ask, out, 0.0)
        hosts.wire.heal()
        flight = Flight(hosts.url, [LONG[0]])
        assert flight.until(lambda outs: outs[0].count > 2, 20)
        hosts.wire.set(ways, Fault(cut=True))
        time.sleep(1.0)
        hosts.wire.heal()
        found.judge("cut", LONG[0], flight.land()[0], 0.0)
        counts = hosts.wire.counts()
        assert all(counts[way]["cut"] and counts[way]["overtaken"] for way in ways)
        found.over(hosts, "")
    assert (row.equal, row.verdict) == (6, "pass"), row.problems
