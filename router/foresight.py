"""How far predictions were off lately, and so what can be counted on.

The mean error and the mean deviation from it, as TCP keeps them of round trips (Jacobson 1988). Pure. Knows
seconds; knows no request.
"""

from __future__ import annotations

GAIN = 1 / 32  # weight of the newest
DEVIATIONS = 2.0  # above the mean: about one in twenty takes longer
LEAST = 0.1  # of the longest time that is asked for: what was calm until now need not stay so


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
        return predicted + self.error + max(self._least, DEVIATIONS * self.deviation)
