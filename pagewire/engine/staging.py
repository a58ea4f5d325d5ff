"""KV pages as the handoff reads and writes them, in host memory or a GPU's.

On the CPU there is nothing to stage: slabs are copied straight between the pages and the wire's own memory.
On a GPU they pass through buffers in pinned memory (``staging_out``, ``staging_in``), allocated once, or from
one process's device to the other's (``staging_lent``, ``staging_borrowed``). Knows which of these it is;
knows no transfer, sequence or page's owner.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.slab_checksum import checksum_into
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging_borrowed import BorrowedPages, BroughtSlab, Data
from pagewire.engine.staging_in import PagesIn
from pagewire.engine.staging_index import SlotIndex
from pagewire.engine.staging_lane import CudaLane, Fence, Lane, PlainFence, PlainLane, Queue
from pagewire.engine.staging_lent import LentPages
from pagewire.engine.staging_out import PagesOut, PinnedCopy
from pagewire.engine.staging_share import CudaShare, Share

Ints = NDArray[np.int64]
Bytes = bytes | bytearray | memoryview
BUFFER_BYTES = 8 << 20  # the largest slab at once: no frame has a larger body
BUFFERS_OUT = 8
BUFFERS_IN = 16  # frames that may arrive while the device is still busy with a step that it was given before
BLOCK_BYTES = 2 << 20  # the largest slab that goes from device to device, as large as frames usually are
BLOCKS_OUT = 16  # for each decode node
BLOCKS_IN = 32  # for all prefill nodes together


class HostPages:
    """Pages in host memory, as the handoff reads and writes them."""

    landing = None  # a frame may land in any memory

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

    def mark(self) -> PlainFence:
        """Passed: the host computes what is computed."""
        return PlainFence()

    def begin(self, slots: Ints, layers: slice) -> HostCopy:
        return HostCopy(self._cache, slots, layers)

    def lender(self) -> None:
        """Nobody has a device."""
        return None

    def borrower(self) -> None:
        return None

    def write(self, slots: Ints, layers: slice, data: Data) -> None:
        assert isinstance(data, Bytes), "there is no device"
        self._cache.write(slots, layers, data)


class HostCopy:
    """Reads when it is taken: there is no copy in between."""

    def __init__(self, cache: KVCache, slots: Ints, layers: slice) -> None:
        self._cache, self._slots, self._layers = cache, slots, layers

    def ready(self) -> bool:
        return True

    def take(self, out: memoryview) -> None:
        self._cache.read_into(self._slots, self._layers, out)

    def drop(self) -> None:
        pass


class PinnedPages:
    """Pages in a GPU's memory, as the handoff reads and writes them.

    Takes (``out`` + ``into``) x ``size`` bytes of pinned host memory and as much of the device's: 192 MiB
    of each.
    """

    def __init__(
        self,
        cache: KVCache,
        lane: Lane | None = None,
        share: Share | None = None,
        *,
        out: int = BUFFERS_OUT,
        into: int = BUFFERS_IN,
        size: int = BUFFER_BYTES,
        block: int = BLOCK_BYTES,
        blocks_out: int = BLOCKS_OUT,
        blocks_in: int = BLOCKS_IN,
        indices: int | None = None,
    ) -> None:
        """``share``: whom else may see the device's memory; by default nobody, where there is no GPU."""
        device, layout = cache.pages.device, cache.layout
        lane = lane or (CudaLane(device) if device.type == "cuda" else PlainLane())
        self.lane = lane
        most = size // (layout.token_bytes // layout.layers)  # tokens of one layer in a buffer
        most = min(most, cache.num_pages * cache.page_size)
        self._cache, self._block = cache, block
        self._blocks_out, self._blocks_in = blocks_out, blocks_in
        self._share = share or (CudaShare(device) if device.type == "cuda" else None)
        self._takes = SlotIndex(lane, Queue.MOVES, most, indices)
        self._puts = SlotIndex(lane, Queue.COMPUTE, most, indices)
        self._out = PagesOut(cache, lane, self._takes, out, size)
        self._in = PagesIn(cache, lane, self._puts, into, size)
        self._borrowed: BorrowedPages | None = None

    def mark(self) -> Fence:
        """Behind all that the device was given to compute so far."""
        return self._out.mark()

    def begin(self, slots: Ints, layers: slice) -> PinnedCopy | None:
        """As ``kv_transfer.PageSource``."""
        return self._out.begin(slots, layers)

    def landing(self, size: int) -> memoryview:
        """Pinned memory for the next frame's body: see ``PagesIn.landing``."""
        return self._in.landing(size)

    def lender(self) -> LentPages | None:
        """For ``kv_transfer.open_sender``: takes memory of the device only as links are made."""
        if self._share is None:
            return None
        return LentPages(self._cache, self.lane, self._takes, self._share, self._blocks_out, self._block)

    def borrower(self) -> BorrowedPages | None:
        """For ``kv_transfer.open_receiver``. Takes 64 MiB of the device's memory when a link is made."""
        if self._share is not None and self._borrowed is None:
            self._borrowed = BorrowedPages(
                self._cache, self.lane, self._puts, self._share, self._blocks_in, self._block
            )
        return self._borrowed

    def write(self, slots: Ints, layers: slice, data: Data) -> None:
        """As ``kv_transfer.PageSink``: what is computed from now on sees it."""
        if isinstance(data, BroughtSlab):
            assert self._borrowed is not None, "it was brought by another"
            self._borrowed.write(slots, layers, data)
            return
        assert isinstance(data, Bytes), "it was brought by another"
        self._in.write(slots, layers, data)

    def warm_up(self) -> None:
        """Take some slots out and put them back as they were: no kernel is compiled later, in mid-flight.

        To be called while nobody has pages.
        """
        layout, layers = self._cache.layout, slice(0, 1)
        slots = np.arange(min(16, self._cache.num_pages * self._cache.page_size), dtype=np.int64)
        body = memoryview(bytearray(len(slots) * (layout.token_bytes // layout.layers)))
        self.mark().wait()
        copy = self.begin(slots, layers)
        assert copy is not None, "nothing else is under way"
        copy.take(body)
        self.write(slots, layers, body)
        if self._share is not None:  # and the one that counts on bodies which stay on the device
            slab = self._cache.pages.view(-1)[:64].view(torch.uint8)
            checksum_into(slab, torch.empty(1, dtype=torch.int64, device=slab.device))


def handoff_pages(cache: KVCache) -> HostPages | PinnedPages:
    """The pages of ``cache`` as both ends of the handoff see them."""
    if cache.pages.device.type == "cpu":
        return HostPages(cache)
    pages = PinnedPages(cache)
    pages.warm_up()
    return pages
