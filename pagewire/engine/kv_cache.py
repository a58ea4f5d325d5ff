"""A node's KV memory: one tensor of pages, read and written as wire slabs.

Owns the bytes; knows nothing of who holds which page, and of sequences. A slab is what ``pagewire.layout``
calls one: ``[layers, 2, tokens, kv_heads, head_dim]``, C-contiguous, in the KV's dtype, here as plain bytes
because numpy has no bfloat16.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import kv_pages
from kernels.kv_pages_cpu import Bytes, gather_cpu, rows_of, scatter_cpu
from pagewire.errors import ConfigError
from pagewire.layout import KVLayout

Ints = NDArray[np.int64]
ALL_LAYERS = slice(None)


class KVCache:
    """``pages`` [layers, 2, pages, page_size, kv_heads, head_dim]; slot = page * page_size + offset."""

    def __init__(
        self, layout: KVLayout, num_pages: int, page_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.layout, self.num_pages, self.page_size = layout, num_pages, page_size
        shape = (layout.layers, 2, num_pages, page_size, layout.kv_heads, layout.head_dim)
        self.pages = _zeros(shape, getattr(torch, layout.dtype), torch.device(device))
        self._rows = rows_of(self.pages) if self.pages.device.type == "cpu" else None

    def read(self, slots: Ints, layers: slice = ALL_LAYERS) -> memoryview:
        """Copy out the slab of ``slots``, in their order, as one row of bytes."""
        slab = kv_pages.gather(self.pages, self._index(slots), layers)
        return slab.reshape(-1).view(torch.uint8).cpu().numpy().data

    def read_into(self, slots: Ints, layers: slice, out: memoryview) -> None:
        """As ``read``, into the bytes ``out``, which are as many and are not kept."""
        target = np.frombuffer(out, np.uint8)
        if self._rows is not None:
            gather_cpu(self._planes(layers), np.asarray(slots, np.int64), self.page_size, target)
        else:
            slab = kv_pages.gather(self.pages, self._index(slots), layers)
            target[:] = slab.reshape(-1).view(torch.uint8).cpu().numpy()

    def write(self, slots: Ints, layers: slice, data: bytes | bytearray | memoryview) -> None:
        """Copy a slab in; inverse of ``read``. ``data`` is not kept."""
        source = np.frombuffer(data, np.uint8)
        if self._rows is not None:
            scatter_cpu(self._planes(layers), np.asarray(slots, np.int64), self.page_size, source)
        else:
            shape = (len(range(self.layout.layers)[layers]), *self.layout.slab_shape(len(slots))[1:])
            slab = torch.from_numpy(source.copy()).view(self.pages.dtype).view(shape)
            kv_pages.scatter(self.pages, self._index(slots), slab.to(self.pages.device), layers)

    def copy_pages(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Copy whole pages, (from, to), in every layer."""
        pairs = list(pairs)
        if pairs:
            kv_pages.copy_pages(self.pages, [a for a, _ in pairs], [b for _, b in pairs])

    def _planes(self, layers: slice) -> Bytes:
        """On the CPU: K and V of ``layers`` in turn, as ``kv_pages_cpu`` sees them."""
        assert self._rows is not None
        start, stop, step = layers.indices(self.layout.layers)
        assert step == 1, layers
        return self._rows[2 * start : 2 * stop]

    def _index(self, slots: Ints) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(slots, np.int64)).to(self.pages.device)


def pages_for(num_bytes: int, layout: KVLayout, page_size: int) -> int:
    """How many pages fit into ``num_bytes``. Raises ConfigError if not even one does."""
    pages = num_bytes // (layout.token_bytes * page_size)
    if pages < 1:
        need = layout.token_bytes * page_size
        raise ConfigError(f"{num_bytes} bytes of KV memory hold no page; one page takes {need} bytes")
    return pages


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On the CPU, memory that costs nothing before it is first used, and is then had in small pages.

    In huge ones the step that is the first to need more would clear 2 MiB for K and V of every layer, and
    all its sequences would wait for that: 130 ms where this was found.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel that has no huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
