"""Log lines about strangers, at most one a second: whoever knocks often must not fill the disk.

Knows text and ``now``; reads no clock. What was left out is counted in the next line.
"""

from __future__ import annotations

import logging

EVERY_S = 1.0


class Audit:
    """Warnings of one kind. ``now`` is seconds on any clock, the same in every call."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._next: float | None = None
        self._held = 0

    def note(self, now: float, text: str) -> None:
        """Log ``text``, which may come from a stranger, or count it for the next line."""
        if self._next is not None and now < self._next:
            self._held += 1
            return
        more = f" ({self._held} more since the last such line)" if self._held else ""
        self._log.warning("%s%s", clean(text), more)
        self._next, self._held = now + EVERY_S, 0


def clean(text: str, longest: int = 300) -> str:
    """``text`` without control characters, so that it stays one line, and not longer than that."""
    short = text if len(text) <= longest else text[: longest - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
