"""Sequences laid out in shuffled pages of a pool, for tests of attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.attention import AttentionMeta


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
