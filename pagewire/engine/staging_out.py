"""KV pages on their way out of the device: gather kernel -> slab on the device -> pinned host memory -> wire.

The host gives a step to the device long before it is computed. A gather on the stream that computes would
come behind all of it, and no layer would leave while the next ones are computed. So gathers run on a queue of
their own, and the copies to the host on another, beside whatever is computed. Knows memory, slots and a
``Lane``; knows no transfer, sequence or page's owner.

Happens-before, for a buffer (a slab on the device and its twin in host memory):

- The gather sees what was computed: it is begun when the mark that was set behind the kernels which write
  those pages has been passed.
- Whoever is given a page afterwards spoils nothing: its owner keeps it until the slab is taken, which is
  behind ``arrived``, or dropped, and then it is nobody's what a gather still reads there.
- The copy sees the gather: COPIES is held at ``gathered``.
- The host reads what was copied: ``arrived`` is set behind the copy, and ``take`` waits for it.
- The next use of a buffer spoils nothing: it begins when the slab was taken, behind ``arrived``, or dropped,
  and then its bytes are nobody's: what is copied next comes behind them on COPIES, and ``arrived`` anew.

A buffer whose slab was dropped nevertheless stays away until its copy is done, so that no more is under way
than there are buffers, however often a wire without room makes a sender begin again.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import kv_pages
from kernels.backend import use_triton
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging_buffer import Buffer, Groups, buffers
from pagewire.engine.staging_index import SlotIndex
from pagewire.engine.staging_lane import Fence, Lane, Queue

Ints = NDArray[np.int64]


class OutBuffer(NamedTuple):
    memory: Buffer
    gathered: Fence
    arrived: Fence


class PagesOut:
    """``count`` buffers of ``size`` bytes, allocated once. ``begin`` is as in ``kv_transfer.PageSource``."""

    def __init__(self, cache: KVCache, lane: Lane, index: SlotIndex, count: int, size: int) -> None:
        """``index`` is for MOVES."""
        self._groups, self._lane, self._index = Groups(cache), lane, index
        self._free = deque(
            OutBuffer(memory, lane.fence("gathered"), lane.fence("arrived"))
            for memory in buffers(lane, count, size, cache)
        )

    def mark(self) -> Fence:
        """Behind all that the device was given to compute so far."""
        fence = self._lane.fence("computed")
        fence.set(Queue.COMPUTE)
        return fence

    def begin(self, slots: Ints, layers: slice) -> PinnedCopy | None:
        """Read what was computed before a mark that has been passed. Five calls of the device, two more for
        slots that it has not been told, and no wait. None if too much is under way.
        """
        if not self._free or not self._free[0].arrived.passed():
            return None
        buffer, lane, pages = self._free.popleft(), self._lane, self._groups.of(layers)
        slab, index = buffer.memory.slab(len(pages), len(slots)), self._index.of(slots)
        lane.run(Queue.MOVES, lambda: gather_into(pages, index, slab.shaped))
        buffer.gathered.set(Queue.MOVES)
        buffer.gathered.hold(Queue.COPIES)
        lane.run(Queue.COPIES, lambda: slab.host.copy_(slab.device, non_blocking=True))
        buffer.arrived.set(Queue.COPIES)
        return PinnedCopy(buffer, slab.host, self._free)


class PinnedCopy:
    """A slab on its way into ``buffer``, which goes back to ``home`` when it is taken or dropped."""

    def __init__(self, buffer: OutBuffer, bytes_: torch.Tensor, home: deque[OutBuffer]) -> None:
        self._buffer: OutBuffer | None = buffer
        self._bytes, self._home = bytes_, home

    def ready(self) -> bool:
        return self._buffer is not None and self._buffer.arrived.passed()

    def take(self, out: memoryview) -> None:
        """With torch's threads: one core copies more slowly than the device sends."""
        assert self._buffer is not None, "taken or dropped before"
        self._buffer.arrived.wait()
        torch.frombuffer(out, dtype=torch.uint8).copy_(self._bytes)
        self.drop()

    def drop(self) -> None:
        if self._buffer is not None:
            self._home.append(self._buffer)
            self._buffer = None


def gather_into(pages: torch.Tensor, slots: torch.Tensor, slab: torch.Tensor) -> None:
    if use_triton(pages):
        kv_pages.gather_triton(pages, slots, out=slab)
    else:
        slab.copy_(kv_pages.gather(pages, slots))
