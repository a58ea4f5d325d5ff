"""What a measurement is here: what was spent on some bytes, repeats side by side, medians and their spread.

Knows numbers and tables; knows nothing of what is measured.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Spent:
    """``wall`` seconds, and seconds of CPU in the sending and in the receiving process, on ``bytes``."""

    bytes: int
    wall: float
    cpu_near: float
    cpu_far: float

    @property
    def cpu(self) -> float:
        return self.cpu_near + self.cpu_far

    @property
    def gb_per_s(self) -> float:
        return self.bytes / self.wall / 1e9

    @property
    def cpu_per_gb(self) -> float:
        return self.cpu / self.bytes * 1e9


@dataclass(frozen=True, slots=True)
class Middle:
    """The median of some numbers, and between which two the middle half of them lies."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Middle:
        found = sorted(numbers)
        assert found, "nothing was measured"
        if len(found) == 1:
            return cls(found[0], found[0], found[0], 1)
        low, _, high = statistics.quantiles(found, n=4, method="inclusive")
        return cls(statistics.median(found), low, high, len(found))

    def json(self) -> dict[str, float]:
        return asdict(self)


def ratios(rows: Sequence[Spent], yardstick: Sequence[Spent], what: str) -> Middle:
    """``what`` ("wall" or "cpu") a byte of ``rows`` over that of ``yardstick``, repeat by repeat."""
    pairs = zip(rows, yardstick, strict=True)
    return Middle.of((getattr(a, what) / a.bytes) / (getattr(b, what) / b.bytes) for a, b in pairs)


def percentile(numbers: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: a number that was measured."""
    found = sorted(numbers)
    return found[min(len(found) - 1, max(0, -(-int(share * 100) * len(found) // 100) - 1))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned."""
    lines = [list(head), *[list(row) for row in rows]]
    width = [max(len(line[i]) for line in lines) for i in range(len(head))]
    cells = [[cell.ljust(width[i]) for i, cell in enumerate(line)] for line in lines]
    rule = ["-" * w for w in width]
    return "\n".join("| " + " | ".join(line) + " |" for line in [cells[0], rule, *cells[1:]])


def machine() -> dict[str, object]:
    """Where and how busy: to be printed above every table."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": [round(x, 2) for x in os.getloadavg()],
    }


def progress(text: str) -> None:
    """One line on the terminal that the next one overwrites; nothing where nobody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []


def cpu_time() -> float:
    """Seconds of CPU of this process and of its NIXL process, if it has one."""
    found = time.process_time()
    for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
        if b"nixl_agent" in Path("/proc", pid, "cmdline").read_bytes():
            user, system = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[11:13]
            found += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return found
