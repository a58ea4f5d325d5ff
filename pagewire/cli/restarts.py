"""When a dead child is started again: the life it had goes in, the wait comes out. Knows no clock."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY = 0.1  # seconds
LONGEST_DELAY = 5.0
LONG_LIFE = 30.0  # a child that lived this long had started well
MAX_FAILURES = 8  # rapid deaths in a row before the supervisor gives up


@dataclass(slots=True)
class Restarts:
    """One child's record: how many times in a row it died young."""

    failures: int = 0

    def died(self, lived: float) -> float | None:
        """Seconds to wait before the next start of a child that lived ``lived`` seconds; None: give it up."""
        if lived >= LONG_LIFE:
            self.failures = 0
        self.failures += 1
        if self.failures >= MAX_FAILURES:
            return None
        return min(FIRST_DELAY * 2.0 ** (self.failures - 1), LONGEST_DELAY)
