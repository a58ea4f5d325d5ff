"""KV pages as the handoff reads and writes them, in host memory or a GPU's.

On the CPU there is nothing to stage: slabs are copied straight between the pages and the wire's own memory.
On a GPU they pass through buffers in pinned memory (``staging_out``, ``staging_in``), allocated once. Knows
which of the two it is; knows no transfer, sequence or page's owner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging_in import PagesIn
from pagewire.engine.staging_index import SlotIndex
from pagewire.engine.staging_lane import CudaLane, Fence, Lane, PlainFence, PlainLane, Queue
from pagewire.engine.staging_out import PagesOut, PinnedCopy

Ints = NDArray[np.int64]
BUFFER_BYTES = 8 << 20  # the largest slab at once: no frame has a larger body
BUFFERS_OUT = 8
BUFFERS_IN = 16  # frames that may arrive while the device is still busy with a step that it was given before


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

    def write(self, slots: Ints, layers: slice, data: bytes | bytearray | memoryview) -> None:
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
        *,
        out: int = BUFFERS_OUT,
        into: int = BUFFERS_IN,
        size: int = BUFFER_BYTES,
        indices: int | None = None,
    ) -> None:
        device, layout = cache.pages.device, cache.layout
        lane = lane or (CudaLane(device) if device.type == "cuda" else PlainLane())
        self.lane = lane
        most = size // (layout.token_bytes // layout.layers)  # tokens of one layer in a buffer
        most = min(most, cache.num_pages * cache.page_size)
        self._cache = cache
        self._out = PagesOut(cache, lane, SlotIndex(lane, Queue.MOVES, most, indices), out, size)
        self._in = PagesIn(cache, lane, SlotIndex(lane, Queue.COMPUTE, most, indices), into, size)

    def mark(self) -> Fence:
        """Behind all that the device was given to compute so far."""
        return self._out.mark()

    def begin(self, slots: Ints, layers: slice) -> PinnedCopy | None:
        """As ``kv_transfer.PageSource``."""
        return self._out.begin(slots, layers)

    def landing(self, size: int) -> memoryview:
        """Pinned memory for the next frame's body: see ``PagesIn.landing``."""
        return self._in.landing(size)

    def write(self, slots: Ints, layers: slice, data: bytes | bytearray | memoryview) -> None:
        """As ``kv_transfer.PageSink``: what is computed from now on sees it."""
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


def handoff_pages(cache: KVCache) -> HostPages | PinnedPages:
    """The pages of ``cache`` as both ends of the handoff see them."""
    if cache.pages.device.type == "cpu":
        return HostPages(cache)
    pages = PinnedPages(cache)
    pages.warm_up()
    return pages
