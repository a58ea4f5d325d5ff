"""Hours of load with one random fault a minute: what was lost, what was wrong, and what grew.

Knows an estate and what can be done to it; knows no protocol. Faults are those of a bad month: processes
killed, stopped for a while and restarted, cables pulled, redis gone.
"""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil
from clients import Outcome
from estate import Estate

SETTLE_S = 90.0  # within which all is together again after a fault
SAMPLE_S = 5.0


@dataclass(slots=True)
class Fault:
    what: str
    at: float
    together_s: float | None = None  # until all knew each other again


@dataclass(slots=True)
class Watched:
    """Memory and descriptors of each process, by its pid: another life is another process."""

    samples: dict[tuple[str, int], list[tuple[float, int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def look(self, estate: Estate) -> None:
        for name, program in estate.programs.items():
            if program.process is None or program.process.poll() is not None:
                continue
            try:
                process = psutil.Process(program.process.pid)
                row = time.monotonic(), process.memory_info().rss, process.num_fds()
            except psutil.NoSuchProcess:
                continue
            self.samples[name, program.process.pid].append(row)

    def slopes(self, warm_s: float = 240.0) -> dict[str, tuple[float, float]]:
        """Bytes and descriptors an hour, of each life that lasted, once it was warm."""
        found = {}
        for (name, pid), rows in self.samples.items():
            late = [row for row in rows if row[0] - rows[0][0] > warm_s]
            if len(late) > 30:
                at = [row[0] / 3600 for row in late]
                slopes = [statistics.linear_regression(at, [row[n] for row in late]).slope for n in (1, 2)]
                found[f"{name} ({pid})"] = slopes[0], slopes[1]
        return found


class Trouble:
    """One fault after the other, drawn from ``seed``."""

    def __init__(self, estate: Estate, seed: int) -> None:
        self.estate = estate
        self.faults: list[Fault] = []
        self.router_kills: list[float] = []
        self.watched = Watched()
        self._dice = random.Random(seed)

    def run(self, minutes: float) -> None:
        end, due = time.monotonic() + 60 * minutes, time.monotonic() + 30
        while time.monotonic() < end:
            if time.monotonic() >= due:
                due += 60
                self._one()
            self.watched.look(self.estate)
            time.sleep(SAMPLE_S)

    def _one(self) -> None:
        kinds: list[Callable[[], str]] = [self._kill, self._stop, self._restart, self._cut, self._no_redis]
        fault = Fault("", time.monotonic())
        self.faults.append(fault)
        fault.what = self._dice.choice(kinds)()
        fault.together_s = self.estate.until(self.estate.together, SETTLE_S)
        print(
            f"  {len(self.faults)}: {fault.what}; together again after {fault.together_s:.1f} s", flush=True
        )

    def _anybody(self) -> str:
        return self._dice.choice([*self.estate.nodes, *self.estate.routers])

    def _kill(self) -> str:
        name = self._anybody()
        if name in self.estate.routers:
            self.router_kills.append(time.monotonic())
        self.estate.signal(name, signal.SIGKILL)
        self.estate.wait(name, 10)
        self.estate.start(name)
        return f"{name} killed"

    def _stop(self) -> str:
        name, seconds = self._dice.choice(self.estate.nodes), self._dice.uniform(1, 12)
        self.estate.signal(name, signal.SIGSTOP)
        time.sleep(seconds)
        self.estate.signal(name, signal.SIGCONT)
        return f"{name} stopped for {seconds:.1f} s"

    def _restart(self) -> str:
        name = self._anybody()
        self.estate.signal(name, signal.SIGTERM)
        code = self.estate.wait(name, 60)
        assert code == 0, f"{name} ended with {code}"
        self.estate.start(name)
        return f"{name} restarted"

    def _cut(self) -> str:
        name, seconds = self._dice.choice(self.estate.nodes), self._dice.uniform(1, 10)
        self.estate.bridge.cut(name)
        time.sleep(seconds)
        self.estate.bridge.cut(name, up=True)
        return f"{name} without network for {seconds:.1f} s"

    def _no_redis(self) -> str:
        seconds = self._dice.uniform(1, 20)
        self.estate.signal("redis", signal.SIGKILL)
        self.estate.wait("redis", 5)
        time.sleep(seconds)
        self.estate.start("redis")
        return f"redis killed, and back empty after {seconds:.1f} s"


def excused(outcomes: Sequence[Outcome], kills: Sequence[float], within_s: float = 120.0) -> list[Outcome]:
    """Failures that are announced: streams that a killed router had in hand."""
    return [
        outcome
        for outcome in outcomes
        if "broke" in outcome.error
        and any(outcome.sent_at <= kill <= outcome.sent_at + within_s for kill in kills)
    ]


def kinds(faults: Sequence[Fault]) -> Counter[str]:
    return Counter(fault.what.partition(" ")[2].partition(" for ")[0].split(",")[0] for fault in faults)
