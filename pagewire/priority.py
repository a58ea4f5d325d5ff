"""What a request's ``priority`` is worth: the lower, the earlier, but nobody waits for ever.

A step of it is worth ``AGE_S`` seconds of waiting, in every queue. Ranks are fixed when a request comes, so
that comparing two of them later compares the priorities less what each has waited. Knows numbers alone.
"""

from __future__ import annotations

AGE_S = 2.0
PRIORITIES = range(-10, 11)


def clamped(priority: int) -> int:
    """Clients may give any number."""
    return min(max(priority, PRIORITIES[0]), PRIORITIES[-1])


def rank(now: float, priority: int) -> float:
    """Of a request that comes now: the lowest of those that wait goes first."""
    return now + AGE_S * clamped(priority)
