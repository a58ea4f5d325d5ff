"""One step on the device: the arrays of a Batch in, logits out.

Knows the model and its KV memory; knows no sequence, no page ownership and no sampling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.attention import AttentionMeta
from kernels.native_library import Threads
from pagewire.engine.batch import Batch
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.packed_decoder import AnyDecoder, PackedDecoder


class ModelRunner:
    def __init__(self, decoder: AnyDecoder, cache: KVCache) -> None:
        assert decoder.device.type == cache.pages.device.type
        assert cache.pages.shape[0] == decoder.config.layers
        self.decoder, self.cache = decoder, cache

    @property
    def vocab_size(self) -> int:
        return self.decoder.config.vocab_size

    @property
    def threads(self) -> Threads | None:
        """Those that the native kernels compute with, free between two steps."""
        return self.decoder.threads if isinstance(self.decoder, PackedDecoder) else None

    @torch.inference_mode()
    def forward(self, batch: Batch, stored: Callable[[int], None] | None = None, every: int = 1) -> Tensor:
        """Compute the batch and store its KV; float32 logits [R, vocab_size] of ``batch.logit_rows``.

        ``stored`` is told, after ``every`` layers and after the last, in how many the batch's KV is.
        """
        meta = AttentionMeta.plan(
            batch.query_starts.tolist(),
            batch.context_lens.tolist(),
            self._tensor(batch.page_tables),
            self.cache.page_size,
        )
        token_ids, positions, slots = map(self._tensor, (batch.token_ids, batch.positions, batch.slots))
        hidden = self.decoder.forward(token_ids, positions, slots, meta, self.cache.pages, stored, every)
        if len(batch.logit_rows) != len(hidden):
            hidden = hidden.index_select(0, self._tensor(batch.logit_rows))
        return self.decoder.logits(hidden)

    def warm_up(self) -> None:
        """Compute a few rows at slots that nobody has yet: the first request finds all prepared."""
        for rows in (1, min(8, self.cache.num_pages * self.cache.page_size)):
            positions = np.arange(rows, dtype=np.int64)
            pages = np.arange(-(-rows // self.cache.page_size), dtype=np.int64)
            last = positions[-1:]
            self.forward(
                Batch(
                    last.repeat(rows), positions, positions, np.array([0, rows]), last + 1, pages[None], last
                )
            )

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.decoder.device)
