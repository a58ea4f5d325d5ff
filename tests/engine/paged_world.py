"""A tiny world for model tests: a runner over some pages, and sequences that take the pages of their turn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pagewire.engine.batch import Batch
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.model import Decoder
from pagewire.engine.runner import ModelRunner
from pagewire.layout import KVLayout

PAGE = 4


def runner_for(
    decoder: Decoder, num_pages: int = 96, page_size: int = PAGE, kv_dtype: str = "float32"
) -> ModelRunner:
    c = decoder.config
    layout = KVLayout(c.layers, c.kv_heads, c.head_dim, kv_dtype, "test")
    return ModelRunner(decoder, KVCache(layout, num_pages, page_size))


class Paged:
    """Sequences over one runner; sequence ``i`` has pages i, n + i, 2n + i, ... never in a row."""

    def __init__(
        self,
        decoder: Decoder,
        sequences: int = 1,
        page_size: int = PAGE,
        pages: int = 96,
        kv_dtype: str = "float32",
    ) -> None:
        self.runner = runner_for(decoder, pages, page_size, kv_dtype)
        self.page_size, self.sequences = page_size, sequences

    def slots(self, sequence: int, positions: np.ndarray) -> np.ndarray:
        page = positions // self.page_size * self.sequences + sequence
        return page * self.page_size + positions % self.page_size

    def step(self, *parts: tuple[int, list[int], int, int]) -> list[Tensor]:
        """Each part: (sequence, all its tokens, first, end). Logits [end - first, V] of each part."""
        ranges = [np.arange(first, end) for _, _, first, end in parts]
        lengths = [len(r) for r in ranges]
        width = max(-(-end // self.page_size) for *_, end in parts)
        tables = [
            [i * self.sequences + s if i * self.page_size < end else 0 for i in range(width)]
            for s, _, _, end in parts
        ]
        batch = Batch(
            token_ids=np.concatenate([np.array(t[a:b], np.int64) for _, t, a, b in parts]),
            positions=np.concatenate(ranges),
            slots=np.concatenate([self.slots(part[0], r) for part, r in zip(parts, ranges, strict=True)]),
            query_starts=np.cumsum([0, *lengths]),
            context_lens=np.array([end for *_, end in parts]),
            page_tables=np.array(tables, np.int64),
            logit_rows=np.arange(sum(lengths)),
        )
        return list(self.runner.forward(batch).split(lengths))

    def chunked(self, tokens: list[int], chunk: int, sequence: int = 0) -> Tensor:
        """Logits [len(tokens), V], computed ``chunk`` tokens a step."""
        ends = range(0, len(tokens), chunk)
        return torch.cat([self.step((sequence, tokens, a, min(a + chunk, len(tokens))))[0] for a in ends])

    def kv_of(self, sequence: int, tokens: int) -> bytes:
        return self.runner.cache.read(self.slots(sequence, np.arange(tokens))).tobytes()

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        tokens = list(prompt)
        first = 0
        for _ in range(count):
            tokens.append(int(self.step((0, tokens, first, len(tokens)))[0][-1].argmax()))
            first = len(tokens) - 1
        return tokens[len(prompt) :]


def relative_error(ours: Tensor, oracle: Tensor) -> float:
    return float((ours - oracle).abs().max() / oracle.abs().max())
