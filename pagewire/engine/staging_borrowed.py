"""KV from another process's device into the pages: mapped block -> slab of our own -> checksum -> scatter.

As the receiver's end of ``kv_transfer``'s direct links asks for it. What is checked and written is the copy:
nobody else can change it. Knows memory, slots and a ``Lane``; knows no transfer, link, sequence or page's
owner.

The host waits for the checksum of a slab, which its device computes beside the step: on MOVES, whose blocks
come first. Some slabs are begun before the first is waited for. Happens-before, for a slab, which are used in
turn:

- The copy spoils nothing that is still to be scattered: MOVES is held at ``scattered``, set behind the
  scatter before on COMPUTE. With as many slabs as there are, that is past, unless the host is more than so
  many frames ahead of the device; then who waits for the checksum waits for the step as well.
- The host reads a checksum, gives the sender its block back, and lets the scatter begin when ``copied`` has
  been passed, which is set behind the copy and the checksum. So COMPUTE need not be held.
- What is computed later sees the scatter, and what was computed before has read its pages: as in
  ``staging_in``.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import kv_pages
from kernels.slab_checksum import checksum_into, unsigned
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging_buffer import Buffer, Groups
from pagewire.engine.staging_index import SlotIndex
from pagewire.engine.staging_lane import Fence, Lane, Queue
from pagewire.engine.staging_share import HEAD_BYTES, Share
from pagewire.errors import RemoteProtocolError

Ints = NDArray[np.int64]


class OnDevice(Protocol):
    """As ``kv_transfer.wire.DeviceBody``."""

    def __len__(self) -> int: ...

    def checksum(self) -> int: ...


Data = bytes | bytearray | memoryview | OnDevice


class Slab(NamedTuple):
    memory: Buffer
    sum: torch.Tensor  # [1] int64, of the device
    seen: torch.Tensor  # [1] int64, of the host
    copied: Fence
    scattered: Fence


class BroughtSlab:
    """The first ``size`` bytes of a slab, until it is used again."""

    def __init__(self, slab: Slab, size: int) -> None:
        self.slab, self._size = slab, size

    def __len__(self) -> int:
        return self._size

    def wait(self) -> None:
        self.slab.copied.wait()

    def checksum(self) -> int:
        self.wait()
        return unsigned(int(self.slab.seen))


class BorrowedPages:
    """``count`` slabs of ``size`` bytes for all links, allocated when the first one is made."""

    def __init__(
        self, cache: KVCache, lane: Lane, index: SlotIndex, share: Share, count: int, size: int
    ) -> None:
        """``index`` is for COMPUTE."""
        self._cache, self._groups, self._lane, self._index = cache, Groups(cache), lane, index
        self._share, self._count, self._size = share, count, size
        self._ring: deque[Slab] = deque()  # the next one first

    def map(self, offer: bytes) -> MappedBlocks:
        """Raises RemoteProtocolError."""
        memory = self._share.map(offer)
        try:
            self._ring = self._ring or self._slabs()
        except RuntimeError as error:
            raise RemoteProtocolError("there is no memory for what would be brought from there") from error
        return MappedBlocks(self, memory, self._lane.fence("unmapped"))

    def _slabs(self) -> deque[Slab]:
        lane, count = self._lane, self._count
        memory, sums = lane.device(count * self._size), lane.device(8 * count).view(torch.int64)
        seen = lane.host(8 * count).view(torch.int64)
        return deque(
            Slab(
                Buffer(part, part, self._cache.pages),  # no host's part
                sums[at : at + 1],
                seen[at : at + 1],
                lane.fence("copied"),
                lane.fence("scattered"),
            )
            for at, part in enumerate(memory.view(count, self._size))
        )

    def bring(self, source: torch.Tensor) -> BroughtSlab:
        """Begin to copy ``source`` [n] uint8. Six calls of the device."""
        size = len(source)
        if not 0 < size <= self._size:
            raise RemoteProtocolError(f"{size} bytes in one body")
        slab, lane = self._ring[0], self._lane
        self._ring.rotate(-1)
        target = slab.memory.device[:size]
        slab.scattered.hold(Queue.MOVES)
        lane.run(Queue.MOVES, lambda: target.copy_(source, non_blocking=True))
        lane.run(Queue.MOVES, lambda: checksum_into(target, slab.sum))
        lane.run(Queue.MOVES, lambda: slab.seen.copy_(slab.sum, non_blocking=True))
        slab.copied.set(Queue.MOVES)
        return BroughtSlab(slab, size)

    def write(self, slots: Ints, layers: slice, data: BroughtSlab) -> None:
        """``data`` was checked, and so waited for. What is computed from now on sees it."""
        pages, slab = self._groups.of(layers), data.slab
        shaped = slab.memory.slab(len(pages), len(slots))
        assert len(data) == shaped.size, f"{len(data)} bytes for a slab of {shaped.size}"
        index = self._index.of(slots)
        self._lane.run(Queue.COMPUTE, lambda: kv_pages.scatter(pages, index, shaped.shaped))
        slab.scattered.set(Queue.COMPUTE)


class MappedBlocks:
    """As ``kv_transfer.transports.direct.Mapped``."""

    def __init__(self, pages: BorrowedPages, memory: torch.Tensor, last: Fence) -> None:
        self._pages, self._memory, self._last = pages, memory, last

    def bring(self, offset: int, size: int) -> BroughtSlab:
        if not HEAD_BYTES <= offset <= offset + size <= len(self._memory) or offset % 8:
            raise RemoteProtocolError("reference outside of what was lent")
        return self._pages.bring(self._memory[offset : offset + size])

    def close(self) -> None:
        """All that reads it is on MOVES: it is unmapped when that has been done."""
        self._last.set(Queue.MOVES)
        self._last.wait()
        self._memory = torch.empty(0, dtype=torch.uint8)
