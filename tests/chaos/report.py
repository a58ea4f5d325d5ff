"""What a chaos scenario is, and the table that `make chaos` prints: one row a scenario.

Knows counts and bounds; knows no process and no socket. A scenario whose fault did not happen is an error,
never a pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


class FaultMissing(Exception):
    """The fault did not take effect, so that the run says nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it: ``repeats`` runs of a scenario, ``scale`` of its counts (1,000 disconnects, ...)."""

    repeats: int = 20
    scale: float = 1.0
    seed: int = 1
    step: Callable[[str], None] = lambda text: None  # told after each run, for a progress line

    def seeds(self) -> Iterator[random.Random]:
        """A generator of random numbers for each repeat; the same plan gives the same ones."""
        return (random.Random(f"{self.seed}/{number}") for number in range(self.repeats))

    def count(self, full: int, least: int = 1) -> int:
        """``full`` scaled."""
        return max(least, round(full * self.scale))


@dataclass(slots=True)
class Row:
    """What a scenario found. ``units`` are requests, frames, pages: whatever was hurt, by ``unit``'s name."""

    scenario: str
    title: str
    unit: str = "requests"
    runs: int = 0
    verified: int = 0  # runs whose fault is known to have happened
    units: int = 0
    equal: int = 0  # as without the fault, byte for byte or token for token
    named: int = 0  # ended, in time, with the error that the documents promise
    bound_s: float | None = None
    slowest_s: float = 0.0  # longest time to the end of what the fault hit
    leaked: int = 0  # pages, transfers, jobs: anything still held afterwards
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # figures that deserve a line below the table
    seconds: float = 0.0  # that the scenario took

    @property
    def wrong(self) -> int:
        return self.units - self.equal - self.named

    @property
    def verdict(self) -> str:
        if self.verified < self.runs or not self.runs:
            return "ERROR"
        late = self.bound_s is not None and self.slowest_s > self.bound_s
        return "FAIL" if self.wrong or self.leaked or self.problems or late else "pass"

    def took(self, seconds: float) -> None:
        self.slowest_s = max(self.slowest_s, seconds)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"wrong": self.wrong, "verdict": self.verdict}


Scenario = Callable[[Plan], Row]
