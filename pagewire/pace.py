"""How fast this node is, by its own measure: what a step of so many tokens takes, and what a handoff adds.

Knows what a step computed, and milliseconds; knows no clock. What was not measured yet is not reported.
``pagewire.rates`` says what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Collection

from pagewire.engine.sequence import Sequence
from pagewire.fit import Fit
from pagewire.rates import HANDING, READING, WRITING

Part = tuple[Sequence, int, int, list[int]]  # its tokens from here to there, and its pages

_SEEN = 3  # steps before a law is worth telling
_SHARE = 0.1  # of each new handoff in the mean
_RESERVE_MS = 50.0  # a longer wait for room says how full the other side was, not how far away it is


class Pace:
    def __init__(self) -> None:
        self._reading = Fit(1.0, 100.0, 100.0)
        self._writing = Fit(1.0, 8.0)
        self._handing: dict[str, float] = {}

    def step(self, computed: Collection[Part], ms: float) -> None:
        """A step that computed so much took so long. Rows that write beside a prompt are deducted."""
        read = [(start, end - start) for seq, start, end, _ in computed if start < seq.num_prompt]
        rows = len(computed) - len(read)
        if read:
            new = sum(count for _, count in read)
            area = sum(count * (start + count / 2) for start, count in read) / 1000
            self._reading.saw((1.0, new, area), ms - rows * self._writing.weights()[1] if rows else ms)
        elif rows:
            self._writing.saw((1.0, rows), ms)

    def handoff(self, reserve_ms: float, exposed_ms: float, worked_ms: float, num_bytes: int) -> None:
        """One came through: it waited for room, then for the rest after the first token; ``worked_ms`` is how
        long both ends worked on its bytes in all."""
        self._mean(HANDING[0], min(reserve_ms, _RESERVE_MS) + exposed_ms)
        if num_bytes:
            self._mean(HANDING[1], worked_ms / num_bytes * 1e6)

    def gauges(self) -> dict[str, float]:
        found = dict(self._handing)
        if self._reading.seen >= _SEEN:
            found |= zip(READING, self._reading.weights(), strict=True)
        if self._writing.seen >= _SEEN:
            found |= zip(WRITING, self._writing.weights(), strict=True)
        return found

    def _mean(self, name: str, value: float) -> None:
        before = self._handing.get(name, value)
        self._handing[name] = before + _SHARE * (value - before)
