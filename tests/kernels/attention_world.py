"""Sequences laid out in shuffled pages of a pool, for tests of attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from kernels.attention import AttentionMeta, KVScales


@dataclass
class World:
    """KV of some sequences in one layer's pool; every slot that no token holds is NaN."""

    kv_layer: torch.Tensor
    page_tables: torch.Tensor
    page_size: int
    contexts: list[int]

    def meta(self, rows: list[int], contexts: list[int] | None = None) -> AttentionMeta:
        """The newest ``rows`` of each sequence, over the first ``contexts`` tokens of it (default: all)."""
        starts = [sum(rows[:i]) for i in range(len(rows) + 1)]
        return AttentionMeta.plan(starts, contexts or self.contexts, self.page_tables, self.page_size)


def make_world(
    contexts: list[int], page_size: int, kv_heads: int, dim: int, seeds: list[int] | None = None
) -> World:
    """A sequence's KV depends on its seed alone (default: its index), not on page size or neighbours."""
    counts = [-(-c // page_size) for c in contexts]
    pages = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(7)) + 1  # page 0 stays NaN
    kv_layer = torch.full((2, sum(counts) + 1, page_size, kv_heads, dim), float("nan"))
    tables = torch.zeros(len(contexts), max(counts), dtype=torch.int64)
    for s, context in enumerate(contexts):
        tables[s, : counts[s]] = pages[sum(counts[:s]) : sum(counts[: s + 1])]
        generator = torch.Generator().manual_seed(1000 + (seeds[s] if seeds else s))
        token = torch.randn(context, 2, kv_heads, dim, generator=generator).transpose(0, 1)
        position = torch.arange(context)
        slots = tables[s, position // page_size] * page_size + position % page_size
        kv_layer.flatten(1, 2)[:, slots] = token
    return World(kv_layer, tables, page_size, contexts)


def quantise(world: World, dtype: torch.dtype, per_token: bool) -> tuple[torch.Tensor, KVScales]:
    """The world's KV as codes of one byte, and their scales; those of slots that no token holds are NaN."""
    most = 127 if dtype == torch.int8 else 448
    size = world.kv_layer.abs()
    largest = size.amax(-1) if per_token else size.nan_to_num().amax((1, 2, 4))
    scales = largest / most
    codes = world.kv_layer / (scales[..., None] if per_token else scales[:, None, None, :, None])
    codes = codes.nan_to_num(nan=most)  # a code cannot be NaN: where none is held, the largest
    return (codes.round() if dtype == torch.int8 else codes).to(dtype), KVScales(scales)


@contextmanager
def poisoned() -> Iterator[None]:
    """Within, memory that torch hands out unwritten is NaN where it can be."""
    empty = torch.empty

    def full(*args: Any, **kwargs: Any) -> torch.Tensor:
        x = empty(*args, **kwargs)
        return x.fill_(float("nan")) if x.is_floating_point() else x

    with patch.object(torch, "empty", full):
        yield
