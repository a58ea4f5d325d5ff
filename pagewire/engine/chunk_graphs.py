"""Chunks of prompts as captured graphs, for steps that are shorter than the host takes to launch them.

A step of up to 2,048 rows keeps a GPU busy for less time than its hundreds of launches keep the host, so it
is captured like a decode step: for a ladder of sizes, over inputs that never move, as groups of layers so
that KV can leave in between. A real step fills the smallest size that holds it; rows that are left over stand
for nobody (slot -1, in no sequence). Single rows are chunks of one here. Knows arrays and the decoder; knows
no sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kernels.attention import AttentionMeta
from pagewire.engine.batch import Batch
from pagewire.engine.capture import Captures, Replay, padded
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.model import Decoder
from pagewire.engine.upload import Upload

MOST_ROWS = 2048
_GROUPS = 8  # of layers, as the handoff has them


def ladder(most: int) -> list[int]:
    """Sizes to capture up to ``most``, itself included: four an octave, so that few rows are in vain."""
    sizes = [(4 + part) << octave for octave in range(2, 11) for part in range(4)]
    return [*(size for size in sizes if size < most), most]


class ChunkGraphs:
    def __init__(
        self, decoder: Decoder, cache: KVCache, drawn: Tensor, most_rows: int, most_seqs: int,
        max_model_len: int,
    ) -> None:  # fmt: skip
        """``drawn``: the tokens that the step before has drawn, for ids below 0."""
        self._decoder, self._cache, self._drawn = decoder, cache, drawn
        device, pages = decoder.device, -(-max_model_len // cache.page_size)
        most_seqs = min(most_seqs, most_rows)
        self._upload = Upload(device)
        self._token_ids, self._positions, self._slots = (
            torch.zeros(most_rows, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._slots.fill_(-1)
        self._starts = torch.zeros(most_seqs + 1, dtype=torch.int32, device=device)
        self._contexts = torch.zeros(most_seqs, dtype=torch.int32, device=device)
        self._tables = torch.zeros(most_seqs, pages, dtype=torch.int32, device=device)
        shape = most_rows, decoder.config.hidden_size
        self._hidden, self._normed = (
            torch.zeros(shape, dtype=decoder.dtype, device=device) for _ in range(2)
        )
        layers, each = decoder.config.layers, -(-decoder.config.layers // _GROUPS)
        self._groups = [range(layers)[first : first + each] for first in range(0, layers, each)]
        self._metas: dict[int, AttentionMeta] = {}
        captures = Captures(device)
        self._replays: dict[int, list[Replay]] = {}
        for size in reversed(ladder(most_rows)):  # see Captures
            first = captures(partial(self._first, size))
            first()  # what it plans for the others is there from now on
            others = [captures(partial(self._further, size, group)) for group in self._groups[1:]]
            self._replays[size] = [first, *others]

    def fits(self, batch: Batch) -> bool:
        """True if ``run`` can do it: not too many rows, sequences and pages."""
        return (
            len(batch.token_ids) <= len(self._token_ids)
            and len(batch.context_lens) <= len(self._contexts)
            and batch.page_tables.shape[1] <= self._tables.shape[1]
        )

    def run(self, batch: Batch, stored: Callable[[int], None] | None = None) -> Tensor:
        """Normed hidden states [R, H] of ``batch.logit_rows``. ``stored`` is told of groups of our own."""
        rows = len(batch.token_ids)
        size = min(size for size in self._replays if size >= rows)
        wanted = self._fill(batch, size)
        for group, replay in zip(self._groups, self._replays[size], strict=True):
            replay()
            if stored is not None:
                stored(group.stop)
        return self._normed.index_select(0, wanted)

    def _fill(self, batch: Batch, size: int) -> Tensor:
        """Bring the inputs in; ``logit_rows`` on the device."""
        seqs = len(self._contexts)
        starts = batch.query_starts.astype(np.int32)
        fresh = self._upload(
            padded(batch.token_ids, size, 0),
            padded(batch.positions, size, 0),
            padded(batch.slots, size, -1),
            padded(starts, seqs + 1, int(starts[-1])),
            padded(batch.context_lens.astype(np.int32), seqs, 0),
            batch.page_tables.astype(np.int32),
            batch.logit_rows,
        )
        fixed = [each[:size] for each in (self._token_ids, self._positions, self._slots)]
        torch._foreach_copy_([*fixed, self._starts, self._contexts], fresh[:5])
        rows, pages = batch.page_tables.shape
        self._tables[:rows, :pages].copy_(fresh[5])
        return fresh[6]

    def _first(self, size: int) -> None:
        """The first layers of a step of ``size`` rows, and the plan of attention that all layers share."""
        self._metas[size] = AttentionMeta.captured_chunks(
            size, self._starts, self._contexts, self._tables, self._cache.page_size
        )
        entered = self._decoder.enter(self._token_ids[:size], self._drawn)
        self._through(size, self._groups[0], *entered)

    def _further(self, size: int, group: range) -> None:
        self._through(size, group, self._hidden[:size], self._normed[:size])

    def _through(self, size: int, group: range, hidden: Tensor, normed: Tensor) -> None:
        hidden, normed = self._decoder.through(
            group, hidden, normed, self._positions[:size], self._slots[:size], self._metas[size],
            self._cache.pages,
        )  # fmt: skip
        self._hidden[:size].copy_(hidden)
        self._normed[:size].copy_(normed)
