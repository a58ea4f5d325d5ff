"""Which part of a transfer goes into the next frame, and which parts have arrived.

Knows token and layer ranges and their bytes; knows no frame, slot or peer. Layers are split over frames
only where one token's KV is larger than a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pagewire.errors import LocalProtocolError
from pagewire.layout import KVLayout


class Part(NamedTuple):
    """A rectangle of tokens x layers: one frame's slab."""

    token_start: int
    token_stop: int
    layer_start: int
    layer_stop: int

    @property
    def tokens(self) -> slice:
        return slice(self.token_start, self.token_stop)

    @property
    def layers(self) -> slice:
        return slice(self.layer_start, self.layer_stop)

    def nbytes(self, layout: KVLayout) -> int:
        cells = (self.token_stop - self.token_start) * (self.layer_stop - self.layer_start)
        return cells * (layout.token_bytes // layout.layers)


class Cursor:
    """Walks a sender through tokens ``[start, computed)`` in frames of at most ``frame_bytes``, in order."""

    def __init__(self, layout: KVLayout, start: int, frame_bytes: int) -> None:
        self._layout = layout
        cell = layout.token_bytes // layout.layers
        self._group = min(layout.layers, frame_bytes // cell)  # layers in one frame
        if self._group == 0:
            raise LocalProtocolError(f"frames of {frame_bytes} bytes cannot hold one layer of one token")
        self._most = max(1, frame_bytes // layout.token_bytes)  # tokens in one frame
        self.token, self._layer = start, 0

    def next(self, computed: int, credit: int, *, idle: bool) -> Part | None:
        """The next frame's part, or None if it has to wait for tokens or credit.

        A frame that is cut short by credit waits for more credit unless nothing is in flight (``idle``), so
        that frames do not crumble.
        """
        tokens = min(computed - self.token, self._most)
        if tokens <= 0:
            return None
        if self._group < self._layout.layers:
            last = min(self._layout.layers, self._layer + self._group)
            part = Part(self.token, self.token + 1, self._layer, last)
            return part if part.nbytes(self._layout) <= credit else None
        affordable = min(tokens, credit // self._layout.token_bytes)
        if affordable == 0 or (affordable < tokens and not idle):
            return None
        return Part(self.token, self.token + affordable, 0, self._layout.layers)

    def advance(self, part: Part) -> None:
        """``part`` is out."""
        done = part.layer_stop == self._layout.layers
        self.token, self._layer = (part.token_stop, 0) if done else (part.token_start, part.layer_stop)


class Coverage:
    """The parts of tokens ``[start, stop)`` x all layers that a receiver has."""

    def __init__(self, layout: KVLayout, start: int, stop: int) -> None:
        self._start, self._stop, self._layers = start, stop, layout.layers
        self._have = np.zeros((layout.layers, stop - start), dtype=np.bool_)
        self.missing = self._have.size

    def contains(self, part: Part) -> bool:
        return (
            self._start <= part.token_start
            and part.token_stop <= self._stop
            and part.layer_stop <= self._layers
        )

    def overlaps(self, part: Part) -> bool:
        return bool(self._have[self._cells(part)].any())

    def add(self, part: Part) -> None:
        cells = self._have[self._cells(part)]
        assert not cells.any(), "a part is added once"
        cells[...] = True
        self.missing -= cells.size

    def _cells(self, part: Part) -> tuple[slice, slice]:
        tokens = slice(part.token_start - self._start, part.token_stop - self._start)
        return slice(part.layer_start, part.layer_stop), tokens
