"""What a decode node holds for one attempt, from its adoption or the reading of its prompt to its last token.

Knows times and counts; decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from decode_node.reading import Reading
from pagewire.messages import DECODE, Hello, NodeId, Spans
from pagewire.node_role import Key
from pagewire.timeline import FIRST_STEP, QUEUE, Stopwatch


@dataclass(slots=True, eq=False)
class Live:
    """``open`` counts the choices that still run. ``reading`` is there until a prompt is read here."""

    router: NodeId
    deadline: float
    watch: Stopwatch
    open: int
    reading: Reading | None = None

    def first_tokens(self, key: Key, hello: Hello, began: float, now: float) -> Spans | None:
        """A step that began then gave tokens: what is to be told of it, if they were the first."""
        if self.reading is not None:
            spans = self.reading.spans(key, hello, now)
            self.reading, self.watch.mark = None, now
            return spans
        if FIRST_STEP in self.watch.ms:
            return None
        self.watch.lap(QUEUE, began)
        self.watch.lap(FIRST_STEP, now)
        return Spans(*key, hello.node, DECODE, hello.pid, dict(self.watch.ms), {})
