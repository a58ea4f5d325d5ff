"""KV pages on their way to another process's device: gather kernel -> block that it has mapped -> checksum.

There is no host on this way but for the checksum, 8 bytes a slab. As the sender's end of ``kv_transfer``'s
direct links asks for it. Knows memory, slots and a ``Lane``; knows no transfer, link, sequence or page's
owner.

Happens-before, for a block. All that is done with it on this side is on MOVES, in its order.

- The gather sees what was computed: it is begun when the mark has been passed, as in ``staging_out``.
- Whoever is given a page afterwards spoils nothing: its owner keeps it until the slab is done or dropped.
- The other process reads what was gathered, and the host its checksum: both only after ``read``, which is set
  behind them, has been passed. No frame is sent before.
- The next use of a block spoils nothing: it begins when the other process has said that it took it, or when
  it was dropped, and then its bytes are nobody's. ``read`` has been passed in either case, so no more is
  under way than there are blocks.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.slab_checksum import checksum_into, unsigned
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging_buffer import Buffer, Groups
from pagewire.engine.staging_index import SlotIndex
from pagewire.engine.staging_lane import Lane, Queue
from pagewire.engine.staging_out import gather_into
from pagewire.engine.staging_share import HEAD_BYTES, Share, Shared
from pagewire.errors import RemoteProtocolError

Ints = NDArray[np.int64]
_log = logging.getLogger("pagewire.handoff")


class LentPages:
    """Gives each link ``count`` blocks of ``size`` bytes."""

    def __init__(
        self, cache: KVCache, lane: Lane, index: SlotIndex, share: Share, count: int, size: int
    ) -> None:
        """``index`` is for MOVES."""
        self._cache, self._lane, self._index, self._share = cache, lane, index, share
        self._count, self._size = count, size

    def lend(self) -> LentBlocks | None:
        try:
            shared = self._share.lend(self._count * self._size)
        except RemoteProtocolError as error:
            _log.info("KV goes through host memory: %s", error)
            return None
        return LentBlocks(self._cache, self._lane, self._index, shared, self._count)


class LentBlocks:
    """As ``kv_transfer.transports.direct.Blocks``."""

    def __init__(self, cache: KVCache, lane: Lane, index: SlotIndex, shared: Shared, count: int) -> None:
        self._groups, self._lane, self._index = Groups(cache), lane, index
        self.offer, self.count, self.size = shared.offer, count, len(shared.memory) // count
        parts = [shared.memory[at : at + self.size] for at in range(0, count * self.size, self.size)]
        self._blocks = [Buffer(part, part, cache.pages) for part in parts]  # no host's part
        self._sums = lane.device(8 * count).view(torch.int64)
        self._seen = lane.host(8 * count).view(torch.int64)
        self._numbers = self._seen.numpy()
        self._read = [lane.fence("read") for _ in range(count)]

    def read(self, block: int, slots: Ints, layers: slice) -> None:
        """Five calls of the device, two more for slots that it has not been told, and no wait."""
        lane, pages = self._lane, self._groups.of(layers)
        slab, index = self._blocks[block].slab(len(pages), len(slots)), self._index.of(slots)
        sum_, seen = self._sums[block : block + 1], self._seen[block : block + 1]
        lane.run(Queue.MOVES, lambda: gather_into(pages, index, slab.shaped))
        lane.run(Queue.MOVES, lambda: checksum_into(slab.device, sum_))
        lane.run(Queue.MOVES, lambda: seen.copy_(sum_, non_blocking=True))
        self._read[block].set(Queue.MOVES)

    def done(self, block: int) -> bool:
        return self._read[block].passed()

    def checksum(self, block: int) -> int:
        return unsigned(int(self._numbers[block]))

    def offset(self, block: int) -> int:
        return HEAD_BYTES + block * self.size
