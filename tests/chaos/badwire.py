"""A bad network between hosts: packets late, lost, overtaken, doubled, throttled, or cut off, by direction.

A process of its own carries IP packets from one host's ``tun`` to another's, so that the kernel's TCP is at
both ends and what is lost is really lost. Each direction of each pair has its own fault and its own
counts; the counts are the proof that a fault took effect. Knows packets, addresses and time; knows no
pagewire. ``BadWire`` is the side of the test, ``Carrier`` that of the process.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import random
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from netns import Host

_BATCH = 64  # packets read from one host before the others get their turn
_QUEUE_BYTES = 256 << 10  # that wait for a throttled wire; what comes then is lost, as in a router's queue
_FLOW = slice(12, 24)  # of an IPv4 packet without options: both addresses and both ports

Way = tuple[str, str]  # from one host to another


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to packets of one direction. Shares are from 0 to 1."""

    delay_s: float = 0.0
    jitter_s: float = 0.0  # each is delayed by up to that much more or less, so that some overtake
    loss: float = 0.0
    reorder: float = 0.0  # share that does not wait for the delay
    duplicate: float = 0.0
    rate: float = 0.0  # bytes a second; 0: no limit
    cut: bool = False


class BadWire:
    """Between ``hosts``, all ways good at first. A context manager; ``seed`` fixes what chance does."""

    def __init__(self, hosts: Sequence[Host], seed: str) -> None:
        self._names = [host.name for host in hosts]
        table = {host.name: (host.address, host.tun) for host in hosts}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(table), seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[host.tun for host in hosts],
        )

    def __enter__(self) -> BadWire:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def set(self, ways: Iterable[Way], fault: Fault) -> None:
        """From now on, when this returns."""
        self._ask({"ways": list(ways), "fault": asdict(fault)})

    def heal(self) -> None:
        self.set(self.every_way(), Fault())

    def forget(self, ways: Iterable[Way]) -> None:
        """Packets of TCP connections that are open now are lost for ever, those of new ones go through: what
        a firewall does that was restarted.
        """
        self._ask({"forget": list(ways)})

    def counts(self) -> dict[Way, Counter[str]]:
        """Packets of each direction by what happened to them, since the start."""
        answer = self._ask({})
        return {(source, target): Counter(found) for source, target, found in answer}

    def every_way(self) -> list[Way]:
        return [(a, b) for a in self._names for b in self._names if a != b]

    def _ask(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the wire's process has ended"
        return json.loads(line)


# --- in the process -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Direction:
    """``newest`` is the number of the last packet that was delivered, ``free_at`` when the wire is idle."""

    fault: Fault = field(default_factory=Fault)
    counts: Counter[str] = field(default_factory=Counter)
    flows: set[bytes] = field(default_factory=set)
    forgotten: set[bytes] = field(default_factory=set)
    arrived: int = 0
    newest: int = 0
    free_at: float = 0.0


class Carrier:
    """Carries packets between ``tuns`` until its standard input ends."""

    def __init__(self, table: dict[str, tuple[str, int]], seed: str) -> None:
        self._names = {bytes(map(int, address.split("."))): name for name, (address, _) in table.items()}
        self._tuns = {name: tun for name, (_, tun) in table.items()}
        self._ways = {(a, b): Direction() for a in table for b in table if a != b}
        self._chance = random.Random(seed)
        self._late: list[tuple[float, int, Way, int, bytes]] = []  # due, order, way, number on it, packet
        self._order = 0

    def run(self) -> None:
        poll = select.epoll()
        sources = {tun: name for name, tun in self._tuns.items()}
        for descriptor in (*sources, 0):
            poll.register(descriptor, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll(self._idle()):
                if descriptor in sources:
                    self._read(sources[descriptor], descriptor)
                elif not self._command(sys.stdin.readline()):
                    return
            self._deliver(time.monotonic())

    def _idle(self) -> float:
        return max(0.0, self._late[0][0] - time.monotonic()) if self._late else -1.0

    def _command(self, line: str) -> bool:
        if not line:
            return False
        command = json.loads(line)
        for a, b in command.get("ways", ()):
            self._ways[a, b].fault = Fault(**command["fault"])
        for a, b in command.get("forget", ()):
            self._ways[a, b].forgotten |= self._ways[a, b].flows
        print(json.dumps([[a, b, way.counts] for (a, b), way in self._ways.items()]), flush=True)
        return True

    def _read(self, source: str, tun: int) -> None:
        for _ in range(_BATCH):
            try:
                packet = os.read(tun, 1 << 16)
            except BlockingIOError:
                return
            target = self._names.get(packet[16:20]) if packet[0] == 0x45 else None
            if target is not None and target != source:
                self._take((source, target), packet, time.monotonic())

    def _take(self, at: Way, packet: bytes, now: float) -> None:
        """Decide what becomes of ``packet``."""
        way = self._ways[at]
        fault, chance = way.fault, self._chance.random
        way.arrived += 1
        flow = packet[_FLOW]
        way.flows.add(flow)
        if flow in way.forgotten:
            way.counts["forgotten"] += 1
            return
        if fault.cut or chance() < fault.loss:
            way.counts["cut" if fault.cut else "lost"] += 1
            return
        if fault.rate and (wait := self._throttle(way, len(packet), now)) is None:
            way.counts["overflowed"] += 1
            return
        due = now + (wait if fault.rate and wait else 0.0)
        if fault.delay_s and chance() >= fault.reorder:
            due += fault.delay_s + fault.jitter_s * (2 * chance() - 1)
            way.counts["delayed"] += 1
        self._put(due, at, way.arrived, packet)
        if chance() < fault.duplicate:
            way.counts["doubled"] += 1
            self._put(due, at, way.arrived, packet)

    def _throttle(self, way: Direction, size: int, now: float) -> float | None:
        """Seconds until a throttled wire has carried it; None if too many wait already."""
        begin = max(now, way.free_at)
        if (begin - now) * way.fault.rate > _QUEUE_BYTES:
            return None
        way.free_at = begin + size / way.fault.rate
        way.counts["throttled"] += begin > now
        return way.free_at - now

    def _put(self, due: float, at: Way, number: int, packet: bytes) -> None:
        self._order += 1
        heapq.heappush(self._late, (due, self._order, at, number, packet))

    def _deliver(self, now: float) -> None:
        while self._late and self._late[0][0] <= now:
            _, _, at, number, packet = heapq.heappop(self._late)
            way = self._ways[at]
            way.counts["overtaken"] += number < way.newest
            way.newest = max(way.newest, number)
            with contextlib.suppress(BlockingIOError):
                os.write(self._tuns[at[1]], packet)
                way.counts["carried"] += 1


if __name__ == "__main__":
    Carrier(
        {name: (address, tun) for name, (address, tun) in json.loads(sys.argv[1]).items()}, sys.argv[2]
    ).run()
