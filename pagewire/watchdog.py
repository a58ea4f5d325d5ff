"""Ends a process whose loop stands still: a node that is wedged must not look alive.

Heartbeats come from a thread of their own, so that a long step delays none; they say nothing of the loop. The
loop shows that it lives by asking for the time. Knows a clock and a count; knows no node.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

TICK_S = 1.0
EXIT_CODE = 70


class Watchdog:
    """Give ``clock`` to the loop and ``start``. ``limit`` counts ticks of a second: time in which the whole
    process was stopped does not count.
    """

    def __init__(self, limit: int, end: Callable[[], None] | None = None) -> None:
        self._limit = limit
        self._end = end or _end
        self._alive = True
        self._still = 0

    def clock(self) -> float:
        """Monotonic seconds, and a sign of life."""
        self._alive = True
        return time.monotonic()

    def start(self) -> None:
        if self._limit:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def tick(self) -> bool:
        """A second has passed. True if that was the last."""
        self._still = 0 if self._alive else self._still + 1
        self._alive = False
        return self._still >= self._limit

    def _run(self) -> None:
        while not self.tick():
            time.sleep(TICK_S)
        print(f"pagewire: the loop has stood still for {self._limit} s; ending", file=sys.stderr, flush=True)
        self._end()


def _end() -> None:
    """Say where every thread stands, and go at once: nothing that hangs may hold this up."""
    faulthandler.dump_traceback(all_threads=True)
    os._exit(EXIT_CODE)
