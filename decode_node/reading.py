"""A prompt that the decode node reads itself: what its prefill is reported to have taken.

Knows times and counts; decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pagewire.messages import PREFILL, Hello, Spans
from pagewire.node_role import Key
from pagewire.timeline import (
    CACHED_TOKENS,
    PREFILL_COMPUTE,
    QUEUE,
    TRANSFER_BYTES,
    TRANSFER_EXPOSED,
    TRANSFER_FRAMES,
    TRANSFER_HIDDEN,
    Stopwatch,
)


@dataclass(slots=True, eq=False)
class Reading:
    watch: Stopwatch
    cached: int | None = None  # tokens that were in the prefix cache; None until something was computed

    def computed(self, start: int, began: float) -> None:
        """A step that began then went on from token ``start``."""
        if self.cached is None:
            self.cached = start
            self.watch.lap(QUEUE, began)

    def spans(self, key: Key, hello: Hello, now: float) -> Spans:
        """The first token is there. Nothing was transferred."""
        self.watch.lap(PREFILL_COMPUTE, now)
        ms = self.watch.ms | {TRANSFER_HIDDEN: 0.0, TRANSFER_EXPOSED: 0.0}
        counts = {CACHED_TOKENS: self.cached or 0, TRANSFER_BYTES: 0, TRANSFER_FRAMES: 0}
        return Spans(*key, hello.node, PREFILL, hello.pid, ms, counts)
