"""One slab's place on its way: memory of the device and its twin in pinned host memory, and views of both.

Views are made once for each shape: making them anew would cost the host more than giving the device its work.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging_lane import Lane

_SHAPES = 64  # whose views a buffer keeps


class Slab(NamedTuple):
    size: int  # bytes
    host: torch.Tensor  # [size] uint8
    device: torch.Tensor  # [size] uint8
    shaped: torch.Tensor  # ``device`` as [layers, 2, tokens, kv_heads, head_dim] in the KV's dtype


class Buffer:
    def __init__(self, host: torch.Tensor, device: torch.Tensor, like: torch.Tensor) -> None:
        """``like``: the pages [L, 2, pages, page_size, Hkv, D]."""
        self.host, self.device = host, device
        self._dtype, self._row = like.dtype, like.shape[4:]
        self._cell = 2 * self._row.numel() * like.element_size()
        self._slabs: dict[tuple[int, int], Slab] = {}

    def slab(self, layers: int, tokens: int) -> Slab:
        """The first bytes, as a slab of so many layers and tokens."""
        if (layers, tokens) not in self._slabs:
            size = layers * tokens * self._cell
            assert size <= len(self.host), f"{size} bytes in one slab"
            if len(self._slabs) >= _SHAPES:
                self._slabs.clear()
            device = self.device[:size]
            shaped = device.view(self._dtype).view(layers, 2, tokens, *self._row)
            self._slabs[layers, tokens] = Slab(size, self.host[:size], device, shaped)
        return self._slabs[layers, tokens]


class Groups:
    """The pages of a group of layers."""

    def __init__(self, cache: KVCache) -> None:
        self._pages = cache.pages
        self._groups: dict[tuple[int | None, int | None], torch.Tensor] = {}

    def of(self, layers: slice) -> torch.Tensor:
        key = layers.start, layers.stop
        if key not in self._groups:
            self._groups[key] = self._pages[layers]
        return self._groups[key]


def buffers(lane: Lane, count: int, size: int, cache: KVCache) -> list[Buffer]:
    """``count`` of ``size`` bytes, in one piece of host and one of device memory."""
    host, device = lane.host(count * size), lane.device(count * size)
    parts = [slice(at, at + size) for at in range(0, count * size, size)]
    return [Buffer(host[part], device[part], cache.pages) for part in parts]
