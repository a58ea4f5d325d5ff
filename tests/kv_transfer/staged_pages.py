"""Pages for the handoff's state machine: a source whose copies take their time, and a sink.

Knows slots, layers and bytes; knows no transfer. A slot that belongs to nobody, and a layer that is not
computed, hold poison, which is in no KV. So does a buffer that is still being read into.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from kv_world import Store
from numpy.typing import NDArray

from kv_transfer import PageSource
from kv_transfer.store import Slots
from kv_transfer.wire import Buffer
from pagewire.layout import KVLayout

POISON = 0xEE
KV = NDArray[np.uint8]  # [layers, 2, tokens, bytes of a token's K in a layer]


def some_kv(layout: KVLayout, tokens: int, seed: int) -> KV:
    """Bytes that are never poison."""
    shape = (layout.layers, 2, tokens, layout.token_bytes // layout.layers // 2)
    return np.random.default_rng(seed).integers(0, 0x80, shape, np.uint8)


class SourcePages(PageSource):
    """``polls``: a copy that is begun now is ready after so many, and what is given to be computed now is
    computed. ``late``: it reads when it is taken, as in
    host memory; otherwise at once, into a buffer that is busy until it is ready, as on a GPU.
    """

    def __init__(self, slots: int, layout: KVLayout, buffers: int) -> None:
        self.kv = np.full(
            (layout.layers, 2, slots, layout.token_bytes // layout.layers // 2), POISON, np.uint8
        )
        self.free = list(range(slots))
        self.computed = np.zeros(
            (layout.layers, slots), np.int64
        )  # the poll from which on it is, 0 for never
        self.polls, self.late, self.time = 0, False, 1
        self.given = 0  # when the last is computed: one after the other
        self.copies: list[Copy] = []  # neither taken nor dropped
        self.check_read: Callable[[Slots, slice], None] = lambda slots, layers: None
        self.buffers = buffers
        self._busy: list[Copy] = []  # copies whose buffer is in use: also dropped ones, until they are ready

    def take(self, tokens: int) -> Slots:
        return np.array([self.free.pop(0) for _ in range(tokens)])

    def give_back(self, slots: Slots) -> None:
        """They are another's now, who writes there."""
        for copy in self.copies:
            assert not set(copy.slots) & set(slots), "a page has a new owner while it is read"
        self.kv[:, :, slots] = POISON
        self.computed[:, slots] = 0
        self.free += slots.tolist()

    def compute(self, slots: Slots, layers: int, kv: KV) -> None:
        """Put the first ``layers`` layers of ``kv`` there, after so many polls."""
        self.kv[:layers, :, slots] = kv[:layers]
        cells = self.computed[:layers, slots]
        self.given = max(self.given, self.time + self.polls)
        self.computed[:layers, slots] = np.where(cells, cells, self.given)

    def mark(self) -> Mark:
        return Mark(self, self.given)

    def begin(self, slots: Slots, layers: slice) -> Copy | None:
        self.check_read(slots, layers)
        cells = self.computed[layers][:, slots]
        assert cells.min() > 0, "nothing will ever be computed there"
        assert cells.max() <= self.time, "read before it is computed"
        self._busy = [copy for copy in self._busy if copy.wait > 0 or copy in self.copies]
        if len(self._busy) >= self.buffers:
            return None
        copy = Copy(self, slots, layers)
        self.copies.append(copy)
        self._busy.append(copy)
        return copy

    def time_passes(self) -> None:
        self.time += 1
        for copy in self._busy:
            copy.wait -= 1

    def read(self, slots: Slots, layers: slice) -> bytes:
        return self.kv[layers][:, :, slots].tobytes()


class Mark:
    def __init__(self, pages: SourcePages, time: int) -> None:
        self._pages, self._time = pages, time

    def passed(self) -> bool:
        return self._pages.time >= self._time


class Copy:
    def __init__(self, pages: SourcePages, slots: Slots, layers: slice) -> None:
        self.slots, self.wait = slots.copy(), pages.polls
        self._pages, self.layers = pages, layers
        self._seen = None if pages.late else pages.read(slots, layers)

    def ready(self) -> bool:
        assert self in self._pages.copies, "asked after its end"
        return self.wait <= 0

    def take(self, out: memoryview) -> None:
        assert self in self._pages.copies, "taken after its end"
        assert self.wait <= 0, "taken before it was ready: this would block"
        out[:] = self._pages.read(self.slots, self.layers) if self._seen is None else self._seen
        self.drop()

    def drop(self) -> None:
        if self in self._pages.copies:
            self._pages.copies.remove(self)


class SinkPages(Store):
    """``check_write`` is asked about slots, layers and data before they are written."""

    def __init__(self, slots: int, layout: KVLayout) -> None:
        super().__init__(slots, layout)
        self.kv[:] = POISON
        self.free = list(range(slots))
        self.check_write: Callable[[Slots, slice, Buffer], None]

    def take(self, tokens: int) -> Slots:
        return np.array([self.free.pop(0) for _ in range(tokens)])

    def give_back(self, slots: Slots) -> None:
        self.kv[:, :, slots] = POISON
        self.free += slots.tolist()

    def write(self, slots: Slots, layers: slice, data: Buffer) -> None:
        self.check_write(slots, layers, data)
        super().write(slots, layers, data)
