"""KV pages on their way into the device: wire -> pinned host memory -> slab on the device -> scatter kernel.

The copy to the device runs on a stream of its own, beside the step that is computed; the scatter on the
stream that computes. Bytes come here when they have been checked. Knows memory, slots and a ``Lane``; knows
no transfer, sequence or page's owner.

Happens-before, for a buffer (pinned host memory and its twin on the device), which are used in turn:

- The host writes where nothing is read any more: it waits until ``copied`` of the buffer's copy before has
  been passed. With as many buffers as there are frames in a look at the wire it has, and there is no wait.
- The copy spoils no slab that is still to be scattered: COPIES is held at ``scattered``, set behind the
  scatter before on COMPUTE.
- The scatter sees its copy: COMPUTE is held at ``copied``. The host, which checks and copies a frame, takes
  longer for it than the copy does, so COMPUTE seldom stands there.
- What is computed later sees the scatter, and what was computed before has read its pages: all of it is on
  COMPUTE. So pages may be lent to a transfer while a step that reads what they were is still under way.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import kv_pages
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging_buffer import Buffer, Groups, buffers
from pagewire.engine.staging_index import SlotIndex
from pagewire.engine.staging_lane import Fence, Lane, Queue

Ints = NDArray[np.int64]


class InBuffer(NamedTuple):
    memory: Buffer
    bytes: NDArray[np.uint8]  # the host's part of it
    copied: Fence
    scattered: Fence


class PagesIn:
    """``count`` buffers of ``size`` bytes, allocated once. ``write`` is as in ``kv_transfer.PageSink``."""

    def __init__(self, cache: KVCache, lane: Lane, index: SlotIndex, count: int, size: int) -> None:
        """``index`` is for COMPUTE."""
        self._groups, self._lane, self._index = Groups(cache), lane, index
        self._ring = deque(  # the next one first
            InBuffer(memory, memory.host.numpy(), lane.fence("copied"), lane.fence("scattered"))
            for memory in buffers(lane, count, size, cache)
        )

    def landing(self, size: int) -> memoryview:
        """Memory of ``size`` bytes for what arrives next, until it is asked for again. If it is checked there
        and given to ``write``, the host need not copy it once more.
        """
        buffer = self._ring[0]
        buffer.copied.wait()
        return buffer.bytes[:size].data

    def write(self, slots: Ints, layers: slice, data: bytes | bytearray | memoryview) -> None:
        """What is computed from now on sees it. Seven calls of the device at most."""
        if len(slots) == 0:
            return
        buffer, lane, pages = self._ring[0], self._lane, self._groups.of(layers)
        slab = buffer.memory.slab(len(pages), len(slots))
        assert len(data) == slab.size, f"{len(data)} bytes for a slab of {slab.size}"
        self._bring(np.frombuffer(data, np.uint8), buffer)
        self._ring.rotate(-1)
        index = self._index.of(slots)
        buffer.scattered.hold(Queue.COPIES)
        lane.run(Queue.COPIES, lambda: slab.device.copy_(slab.host, non_blocking=True))
        buffer.copied.set(Queue.COPIES)
        buffer.copied.hold(Queue.COMPUTE)
        lane.run(Queue.COMPUTE, lambda: kv_pages.scatter(pages, index, slab.shaped))
        buffer.scattered.set(Queue.COMPUTE)

    @staticmethod
    def _bring(data: NDArray[np.uint8], buffer: InBuffer) -> None:
        """Put ``data`` into the buffer's host memory, unless it landed there."""
        if _address(data) != _address(buffer.bytes):
            buffer.copied.wait()
            buffer.bytes[: len(data)] = data


def _address(array: NDArray[np.uint8]) -> int:
    return int(array.__array_interface__["data"][0])
