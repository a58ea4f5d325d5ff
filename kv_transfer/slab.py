"""Which part of a transfer goes into the next frame, and which parts have arrived.

Knows token and layer ranges and their bytes; knows no frame, slot or peer. Layers go in groups of a fixed
size, each at its own pace, so that the first ones can be on their way while the last ones are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pagewire.errors import LocalProtocolError
from pagewire.layout import KVLayout

_EVEN = 64  # tokens: a multiple of the usual page sizes, so that both ends copy whole pages


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
    """Walks a sender through tokens ``[start, stop)`` of all layers, in frames of at most ``frame_bytes``.

    Frames never cross a group of ``group`` layers; only where one token of a group is larger than a frame
    are there other, smaller groups instead. Within a group the tokens go in order.
    """

    def __init__(self, layout: KVLayout, start: int, stop: int, frame_bytes: int, group: int) -> None:
        self._cell = layout.token_bytes // layout.layers
        size = min(group, layout.layers, frame_bytes // self._cell)
        if size == 0:
            raise LocalProtocolError(f"frames of {frame_bytes} bytes cannot hold one layer of one token")
        self._groups = [range(at, min(at + size, layout.layers)) for at in range(0, layout.layers, size)]
        self._next = [start] * len(self._groups)  # the first token of each group that is still to go
        self._stop, self._frame_bytes, self._size = stop, frame_bytes, size

    @property
    def done(self) -> bool:
        return min(self._next) >= self._stop

    def next(self, ready: Sequence[int], credit: int, *, idle: bool) -> Part | None:
        """The next frame's part, or None if it has to wait for tokens or credit.

        ``ready`` [layers] says how many tokens are there, layer by layer, and never grows with the layer. A
        frame that is cut short by credit waits for more credit unless nothing is in flight (``idle``), so
        that frames do not crumble.
        """
        for layers, token in zip(self._groups, self._next, strict=True):
            if (left := ready[layers[-1]] - token) <= 0:
                continue
            each = self._cell * len(layers)
            tokens = self._whole(token, left, self._frame_bytes // each)
            affordable = min(tokens, credit // each)
            if affordable == 0 or (affordable < tokens and not idle):
                return None
            return Part(token, token + affordable, layers.start, layers.stop)
        return None

    @staticmethod
    def _whole(token: int, left: int, most: int) -> int:
        """How many of ``left`` tokens go when ``most`` fit: frames that are not the last end with a page."""
        if left <= most or most < 2 * _EVEN:
            return min(left, most)
        return most - (token + most) % _EVEN

    def advance(self, part: Part) -> None:
        """``part``, which ``next`` gave, is on its way."""
        self._next[part.layer_start // self._size] = part.token_stop

    def retreat(self, part: Part) -> None:
        """``part``, the last of its group that went on its way, did not."""
        self._next[part.layer_start // self._size] = part.token_start


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
