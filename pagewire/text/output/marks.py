"""Marks in text that arrives in pieces: how much of the end must wait.

Knows characters only.
"""

from __future__ import annotations

MAX_GAP = 64  # characters of white space beside a mark that count as its own


def begun(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` with which ``mark`` begins, without being complete."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def gap_start(text: str, end: int) -> int:
    """Where the white space that ends at ``end`` begins; no more of it than MAX_GAP counts."""
    low = max(0, end - MAX_GAP)
    return low + len(text[low:end].rstrip())
