"""Which prompt is read first, so that short ones need not wait for long ones, nor long ones for ever.

Pure. Knows sequences and token counts; knows no page.
"""

from __future__ import annotations

from collections.abc import Iterable

from pagewire.engine.sequence import Sequence

OLDEST_PART = 2  # of the tokens of a step, this part is for the prompt that was started first
MAX_SKIPS = 16  # shorter prompts that may be started before one that came earlier


def sure(oldest: Sequence, budget: int) -> int:
    """What the oldest of the running prompts gets of ``budget`` tokens, whatever else comes: some, if there
    are any."""
    return min(oldest.remaining, -(-budget // OLDEST_PART))


def next_to_start(waiting: Iterable[Sequence], batch: int) -> Sequence:
    """The first that one step of ``batch`` tokens can read, unless it would pass one that was preempted or
    was passed often enough; else the first."""
    first: Sequence | None = None
    for seq in waiting:
        first = first or seq
        if len(seq.tokens) <= batch:
            return seq
        if seq.preemptions or seq.skipped >= MAX_SKIPS:
            break
    assert first is not None
    return first


def count_skips(waiting: Iterable[Sequence], started: Sequence) -> None:
    """``started`` goes before those that stand in front of it."""
    for seq in waiting:
        if seq is started:
            return
        seq.skipped += 1
