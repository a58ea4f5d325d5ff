"""Decode steps as captured graphs: the host gives a whole step to the GPU in one call.

A step of one row a sequence is captured for each of a ladder of batch sizes, over inputs that never move.
A real step fills the inputs of the smallest size that holds it, the rest with rows that stand for nobody
(context 0, slot -1), and replays. The rows' bits are those of the step as it is: no kernel looks at how many
rows there are, but cuBLAS, which may (see ``deterministic``). Knows arrays and the decoder; knows no
sequence.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from torch import Tensor

from kernels.attention import AttentionMeta
from pagewire.engine.batch import Batch
from pagewire.engine.capture import Captures, Replay, padded
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.model import Decoder
from pagewire.engine.upload import Upload


def ladder(most: int) -> list[int]:
    """Sizes to capture up to ``most``, itself included."""
    steps = chain((1, 2, 4), range(8, 64, 8), range(64, 256, 16), range(256, most, 32))
    return [*(size for size in steps if size < most), most]


class DecodeGraphs:
    def __init__(
        self, decoder: Decoder, cache: KVCache, drawn: Tensor, most_rows: int, max_model_len: int
    ) -> None:
        """``drawn`` [most_rows]: the tokens that the step before has drawn, for ids below 0."""
        self._decoder, self._cache, self._drawn = decoder, cache, drawn
        self._most_tokens = min(most_rows * max_model_len, 2 * cache.num_pages * cache.page_size)
        device, pages = decoder.device, -(-max_model_len // cache.page_size)
        self._upload = Upload(device)
        self._token_ids, self._positions, self._slots = (
            torch.zeros(most_rows, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._contexts = torch.zeros(most_rows, dtype=torch.int32, device=device)
        self._tables = torch.zeros(most_rows, pages, dtype=torch.int32, device=device)
        self._slots.fill_(-1)
        shape = most_rows, decoder.config.vocab_size
        self._logits = torch.empty(shape, dtype=decoder.logits_dtype, device=device)
        self._captures = Captures(device)
        self._replays = {size: self._capture(size) for size in reversed(ladder(most_rows))}

    def fits(self, batch: Batch) -> bool:
        """True if ``run`` can do it: one row a sequence, and within what was captured."""
        rows = len(batch.token_ids)
        return (
            rows == len(batch.context_lens) == len(batch.logit_rows)
            and rows <= len(self._contexts)
            and batch.page_tables.shape[1] <= self._tables.shape[1]
            and int(batch.context_lens.sum()) <= self._most_tokens
        )

    def run(self, batch: Batch) -> Tensor:
        """Logits [R, vocab_size] of a batch that ``fits``, good until the next run."""
        rows = len(batch.token_ids)
        size = min(size for size in self._replays if size >= rows)
        self._fill(batch, size)
        self._replays[size]()
        return self._logits[:rows]

    def _fill(self, batch: Batch, size: int) -> None:
        fresh = self._upload(
            padded(batch.token_ids, size, 0),
            padded(batch.positions, size, 0),
            padded(batch.slots, size, -1),
            padded(batch.context_lens.astype(np.int32), size, 0),
            batch.page_tables.astype(np.int32),
        )
        fixed = [each[:size] for each in (self._token_ids, self._positions, self._slots, self._contexts)]
        torch._foreach_copy_(fixed, fresh[:4])
        rows, pages = batch.page_tables.shape
        self._tables[:rows, :pages].copy_(fresh[4])

    def _capture(self, size: int) -> Replay:
        decoder, cache = self._decoder, self._cache
        token_ids, positions, slots = self._token_ids[:size], self._positions[:size], self._slots[:size]
        contexts, tables = self._contexts[:size], self._tables[:size]

        def step() -> None:
            meta = AttentionMeta.captured(
                contexts, tables, cache.page_size, self._most_tokens, decoder.deterministic
            )
            hidden = decoder.forward(token_ids, positions, slots, meta, cache.pages, sampled=self._drawn)
            self._logits[:size].copy_(decoder.logits(hidden))

        return self._captures(step)
