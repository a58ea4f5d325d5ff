"""When a process that was told to stop does so: once it has nothing in hand, and not later than it may.

Knows signals and seconds; knows no request.
"""

from __future__ import annotations

import math
import signal

SETTLE_S = 0.25  # what was sent before the others knew may still come


class Stopping:
    """After the first signal there are ``grace_s`` seconds; a second one does not wait."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._signals = 0
        self._since = math.inf

    def on_signals(self) -> None:
        """SIGTERM and SIGINT count from now on. To be called on the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.told())

    def told(self) -> None:
        self._signals += 1

    def begins(self, now: float) -> bool:
        """True once: at the first look after the first signal."""
        if not self._signals or self._since < math.inf:
            return False
        self._since = now
        return True

    def over(self, now: float, *, idle: bool) -> bool:
        """True if it is to stop now, with nothing in hand or not."""
        if self._since == math.inf:
            return False
        waited = now - self._since
        return self._signals > 1 or waited >= self._grace_s or (idle and waited >= SETTLE_S)
