"""The weights that tokens are drawn by: whole numbers, the same on every machine.

A token's weight is e^((logit - largest) * heat), heat = 1 / temperature, in units of 2^-40, to the nearest.
It is computed in float32 from additions and multiplications alone, each rounded once, so numpy here and
``kernels/native/sample_row.h`` there get the same bits; what is whole is added exactly in any order. A token
less than 2^-41 times as likely as the likeliest is never drawn. The float32 exponential is within 3 parts in
10 million of the exact one where z is small, and its error grows with |z| as that of (logit - largest) * heat
does. Knows numbers; knows no parameters and no random numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Ints = NDArray[np.int64]

UNIT = 40
WHOLE = 1 << UNIT  # the weight of the largest logit

_LOG2_E, _LN2_HIGH, _LN2_LOW = map(np.float32, (1.44269504088896341, 0.693359375, -2.12194440e-4))
_TERMS = [np.float32(1) / np.float32(math.factorial(n)) for n in range(7, -1, -1)]
_NONE = np.float32(-64.0)  # e to this is far below a unit


def weights(x: Logits, heat: float, least: int = 1) -> Ints:
    """[N] weights of logits ``x`` [N], of which the largest is finite; 0 for those below ``least`` units.

    e^z by Cody and Waite's reduction to |r| <= ln 2 / 2 and Taylor's polynomial of degree 7.
    """
    with np.errstate(over="ignore"):
        z = np.maximum((x - x.max()) * np.float32(heat), _NONE)
    n = np.rint(z * _LOG2_E)
    r = (z - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.full_like(r, _TERMS[0])
    for term in _TERMS[1:]:
        p *= r
        p += term
    p *= ((n.astype(np.int32) + (127 + UNIT)) << 23).view(np.float32)  # times 2^(n + UNIT)
    w: Ints = np.rint(p.astype(np.float64)).astype(np.int64)
    w[w < least] = 0
    return w


def least_weight(min_p: float) -> int:
    """The smallest weight that is at least ``min_p`` of the largest, and not 0."""
    return max(1, math.ceil(min_p * WHOLE))


def log_of(mass: int) -> float:
    """The logarithm of a sum of weights, the largest logit's counting as 1."""
    return math.log(mass / WHOLE)


def largest(x: NDArray[np.float32 | np.int64], k: int) -> Ints:
    """Ids, ascending, of the k largest of ``x``, 0 <= k <= len(x)."""
    if k in (0, len(x)):
        return np.arange(k)
    return _cut(x, k, np.partition(x, len(x) - k)[len(x) - k])


def _cut(x: NDArray[np.float32 | np.int64], k: int, kth: np.float32 | np.int64) -> Ints:
    """Ids, ascending, of the k largest of ``x``, given that the k-th largest value is ``kth``."""
    at_least = np.flatnonzero(x >= kth)
    if len(at_least) == k:
        return at_least
    above = np.flatnonzero(x > kth)
    ties = at_least[x[at_least] == kth][: k - len(above)]
    return np.sort(np.concatenate([above, ties]))


def nucleus(w: Ints, top_p: float) -> Ints:
    """Ids, ascending, of the fewest largest weights that hold ``top_p`` of the whole.

    V weights below (whole - target) / V hold less than the rest may, so the others are enough to look at.
    """
    whole = int(w.sum())
    target = min(whole, math.ceil(top_p * whole))
    floor = (whole - target) // len(w) + 1
    largest_first = np.sort(w[w >= floor])[::-1]
    count = int(np.searchsorted(np.cumsum(largest_first), target, side="left")) + 1
    return _cut(w, count, largest_first[count - 1])
