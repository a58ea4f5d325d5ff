"""KV pages on their way out of and into the memory of the device, through host memory.

On the CPU there is nothing to stage: slabs are copied straight between the pages and the wire's own memory.
On a GPU they pass through a slab of pinned buffers, allocated once: gather kernel -> asynchronous copy on a
side stream -> host, and back. A buffer is used again when the event behind its last copy has passed. Pages
need no event: they are gathered and scattered on the stream that computes, so whoever gets a page next comes
later on the same stream. Knows memory, streams and slots; knows no transfer, sequence or page's owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import kv_pages
from pagewire.engine.kv_cache import KVCache

Ints = NDArray[np.int64]
BUFFER_BYTES = 8 << 20  # the largest slab at once
BUFFERS = 4  # in each direction


class HostPages:
    """Pages in host memory, as the handoff reads and writes them."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

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


class Lane:
    """A stream of copies beside the one that computes. Without CUDA copies are done when they are made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _side_stream(device) if device.type == "cuda" else None

    @contextmanager
    def behind_compute(self, source: torch.Tensor) -> Iterator[None]:
        """What is copied from ``source`` here begins when it has been computed, and holds up nothing."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        source.record_stream(self._stream)

    def mark(self) -> torch.cuda.Event | None:
        """An event behind all copies of this lane so far."""
        return None if self._stream is None else self._stream.record_event()

    def mark_compute(self) -> torch.cuda.Event | None:
        """An event behind all that the computing stream was given so far."""
        return None if self._stream is None else torch.cuda.current_stream(self._device).record_event()


class Buffer:
    """Pinned host memory, and the event after which it may be used again."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.bytes = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self.event: torch.cuda.Event | None = None

    def busy(self) -> bool:
        return self.event is not None and not bool(self.event.query())  # type: ignore[no-untyped-call]


class PinnedPages:
    """Pages in a GPU's memory, as the handoff reads and writes them."""

    def __init__(self, cache: KVCache, buffers: int = BUFFERS, size: int = BUFFER_BYTES) -> None:
        device = cache.pages.device
        self._cache = cache
        self._lane = Lane(device)
        self._out = deque(Buffer(size, device) for _ in range(buffers))  # that nobody reads into
        self._in = deque(Buffer(size, device) for _ in range(2))  # used in turn

    def begin(self, slots: Ints, layers: slice) -> PinnedCopy | None:
        """As ``kv_transfer.PageSource``. The pages may be given to others at once."""
        if not self._out or self._out[0].busy():
            return None
        buffer = self._out.popleft()
        slab = kv_pages.gather(self._cache.pages, self._index(slots), layers).reshape(-1).view(torch.uint8)
        with self._lane.behind_compute(slab):
            buffer.bytes[: len(slab)].copy_(slab, non_blocking=True)
        buffer.event = self._lane.mark()
        return PinnedCopy(buffer, len(slab), self._out)

    def write(self, slots: Ints, layers: slice, data: bytes | bytearray | memoryview) -> None:
        """As ``kv_transfer.PageSink``: what is computed from now on sees it."""
        if len(slots) == 0:
            return
        buffer = self._in[0]
        self._in.rotate(-1)
        if buffer.event is not None:
            buffer.event.synchronize()
        cache, size = self._cache, len(data)
        buffer.bytes.numpy()[:size] = np.frombuffer(data, np.uint8)
        shape = (len(range(cache.layout.layers)[layers]), *cache.layout.slab_shape(len(slots))[1:])
        slab = buffer.bytes[:size].view(cache.pages.dtype).view(shape)
        kv_pages.scatter(
            cache.pages, self._index(slots), slab.to(cache.pages.device, non_blocking=True), layers
        )
        buffer.event = self._lane.mark_compute()

    def _index(self, slots: Ints) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(slots, np.int64)).to(self._cache.pages.device)


class PinnedCopy:
    """A slab on its way into ``buffer``, which goes back to ``home`` when it is taken or dropped."""

    def __init__(self, buffer: Buffer, size: int, home: deque[Buffer]) -> None:
        self._buffer: Buffer | None = buffer
        self._size, self._home = size, home

    def ready(self) -> bool:
        return self._buffer is not None and not self._buffer.busy()

    def take(self, out: memoryview) -> None:
        assert self._buffer is not None, "taken or dropped before"
        if self._buffer.event is not None:
            self._buffer.event.synchronize()
        np.frombuffer(out, np.uint8)[:] = self._buffer.bytes[: self._size].numpy()
        self.drop()

    def drop(self) -> None:
        if self._buffer is not None:
            self._home.append(self._buffer)
            self._buffer = None


def handoff_pages(cache: KVCache) -> HostPages | PinnedPages:
    """The pages of ``cache`` as both ends of the handoff see them."""
    return HostPages(cache) if cache.pages.device.type == "cpu" else PinnedPages(cache)


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
