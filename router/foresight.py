"""How far predictions were off lately, and so what can be counted on.

The mean error and the mean deviation from it, as TCP keeps them of round trips (Jacobson 1988). Pure. Knows
seconds; knows no request.
"""

from __future__ import annotations

GAIN = 1 / 16  # weight of the newest
DEVIATIONS = 1.5  # above the mean: about one in ten takes longer
LEAST = 0.35  # of the longest time that is asked for is kept back: a flood teaches too late for its beginning


class Foresight:
    """``most`` is the longest time that is asked for."""

    def __init__(self, most: float) -> None:
        self.error = 0.0
        self.deviation = 0.0
        self._least = LEAST * most

    def saw(self, predicted: float, actual: float) -> None:
        off = actual - predicted - self.error
        self.error += GAIN * off
        self.deviation += GAIN * (abs(off) - self.deviation)

    def within(self, predicted: float) -> float:
        """What will hardly take longer than that."""
        return predicted + max(self._least, self.error + DEVIATIONS * self.deviation)
