"""Straight-line laws from what was measured: non-negative least squares over a fading past.

Knows numbers. Of what was seen, the last few hundred observations count; each counts by its relative error,
so that a long step does not drown the short ones.
"""

from __future__ import annotations

from collections.abc import Sequence

MEMORY = 300  # observations, roughly
_RIDGE = 1e-6  # where two parts cannot be told apart, the one that is large beside its scale gets most


class Fit:
    """``y = sum(weight * x)`` with weights of 0 or more. ``scales`` are what the parts of x are like."""

    def __init__(self, *scales: float) -> None:
        self._scales = scales
        self._squares = [[0.0] * len(scales) for _ in scales]
        self._products = [0.0] * len(scales)
        self.seen = 0

    def saw(self, x: Sequence[float], y: float) -> None:
        if y <= 0:
            return
        self.seen += 1
        row = [part / scale for part, scale in zip(x, self._scales, strict=True)]
        keep, trust = 1 - 1 / MEMORY, 1 / (y * y)
        for i, a in enumerate(row):
            self._products[i] = self._products[i] * keep + trust * a * y
            self._squares[i] = [s * keep + trust * a * b for s, b in zip(self._squares[i], row, strict=True)]

    def weights(self) -> list[float]:
        """All 0 before anything was seen."""
        free = [i for i in range(len(self._scales)) if self._squares[i][i] > 0]
        while free:
            found = self._solve(free)
            if min(found) >= 0:
                whole = dict(zip(free, found, strict=True))
                return [whole.get(i, 0.0) / scale for i, scale in enumerate(self._scales)]
            free.remove(free[found.index(min(found))])
        return [0.0] * len(self._scales)

    def _solve(self, free: list[int]) -> list[float]:
        """The weights of ``free`` alone, in units of the scales."""
        ridge = _RIDGE * max(self._squares[i][i] for i in free)
        rows = [[self._squares[i][j] + ridge * (i == j) for j in free] + [self._products[i]] for i in free]
        for at in range(len(rows)):  # the matrix is positive definite: no pivoting
            for below in rows[at + 1 :]:
                factor = below[at] / rows[at][at]
                below[at:] = [b - factor * a for a, b in zip(rows[at][at:], below[at:], strict=True)]
        found = [0.0] * len(rows)
        for at in reversed(range(len(rows))):
            known = sum(a * b for a, b in zip(rows[at][at + 1 : -1], found[at + 1 :], strict=True))
            found[at] = (rows[at][-1] - known) / rows[at][at]
        return found
