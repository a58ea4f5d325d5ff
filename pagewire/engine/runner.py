"""One step on the device: the arrays of a Batch in, logits or drawn tokens out.

Knows the model and its KV memory; knows no sequence, no page ownership and no sampling parameter.
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
from pagewire.engine.chunk_graphs import ChunkGraphs
from pagewire.engine.drawing import Drawing, Drawn, Mark
from pagewire.engine.graphs import DecodeGraphs
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.model import Decoder
from pagewire.engine.packed_decoder import AnyDecoder, PackedDecoder
from pagewire.engine.sampler import SampleRow
from pagewire.engine.upload import Upload
from pagewire.sampling import SamplingParams


class ModelRunner:
    def __init__(self, decoder: AnyDecoder, cache: KVCache, most_rows: int = 1) -> None:
        """``most_rows``: of which tokens can be drawn at once."""
        assert decoder.device.type == cache.pages.device.type
        assert cache.pages.shape[0] == decoder.config.layers
        self.decoder, self.cache = decoder, cache
        self._upload = Upload(decoder.device)
        self._drawing = Drawing(decoder.device, most_rows)
        self._graphs: DecodeGraphs | None = None
        self._chunks: ChunkGraphs | None = None

    @property
    def vocab_size(self) -> int:
        return self.decoder.config.vocab_size

    @property
    def layers(self) -> int:
        return self.decoder.config.layers

    @property
    def threads(self) -> Threads | None:
        """Those that the native kernels compute with, free between two steps."""
        return self.decoder.threads if isinstance(self.decoder, PackedDecoder) else None

    @torch.inference_mode()
    def forward(self, batch: Batch, stored: Callable[[int], None] | None = None, every: int = 1) -> Tensor:
        """Compute the batch and store its KV; logits [R, vocab_size] of ``batch.logit_rows``, good until the
        next call.

        A negative token id -1 - r is the token that row r of the last ``draw`` chose. ``stored`` is told,
        after ``every`` layers and after the last, in how many the batch's KV is.
        """
        if self._graphs is not None and self._graphs.fits(batch):
            logits = self._graphs.run(batch)
            if stored is not None:
                stored(self.decoder.config.layers)
            return logits
        if self._chunks is not None and self._chunks.fits(batch):
            return self.decoder.logits(self._chunks.run(batch, stored))
        token_ids, positions, slots, tables, rows = self._upload(
            batch.token_ids, batch.positions, batch.slots, batch.page_tables, batch.logit_rows
        )
        meta = AttentionMeta.plan(
            batch.query_starts.tolist(), batch.context_lens.tolist(), tables, self.cache.page_size,
            isinstance(self.decoder, Decoder) and self.decoder.deterministic,
        )  # fmt: skip
        hidden = self.decoder.forward(
            token_ids, positions, slots, meta, self.cache.pages, stored, every, self._drawing.tokens
        )
        if len(batch.logit_rows) != len(hidden):
            hidden = hidden.index_select(0, rows)
        return self.decoder.logits(hidden)

    @torch.inference_mode()
    def draw(self, logits: Tensor, rows: list[SampleRow]) -> Drawn:
        """Choose the next token of each row, all ``on_device`` and of one choice."""
        return self._drawing.draw(logits, rows)

    def mark(self) -> Mark:
        """To be asked whether the device has done all that it was given so far."""
        return Mark(self.decoder.device)

    @torch.inference_mode()
    def capture_chunks(self, most_rows: int, most_seqs: int, max_model_len: int) -> None:
        """From now on steps of up to ``most_rows`` rows are replays of captured graphs."""
        if isinstance(self.decoder, Decoder):
            self._chunks = ChunkGraphs(
                self.decoder, self.cache, self._drawing.tokens, most_rows, most_seqs, max_model_len
            )

    @torch.inference_mode()
    def capture(self, most_rows: int, max_model_len: int) -> None:
        """From now on steps of up to ``most_rows`` single rows are replays of captured graphs."""
        if isinstance(self.decoder, Decoder):
            self._graphs = DecodeGraphs(
                self.decoder, self.cache, self._drawing.tokens, most_rows, max_model_len
            )

    def warm_up(self) -> None:
        """Compute a few rows at slots that nobody has yet, and draw from them in every way: the first request
        finds all prepared.
        """
        anything = SamplingParams(temperature=1.0, top_k=2, top_p=0.5)
        for rows in (1, min(8, self.cache.num_pages * self.cache.page_size)):
            logits = self.forward(one_prompt(rows, self.cache.page_size))
            self.draw(logits, [SampleRow(anything, 0, [0], [0], 1)]).see()


def one_prompt(tokens: int, page_size: int) -> Batch:
    """A step that reads one prompt into the first pages, and asks for its last row."""
    positions = np.arange(tokens, dtype=np.int64)
    pages = np.arange(-(-tokens // page_size), dtype=np.int64)
    last = positions[-1:]
    starts: NDArray[np.int64] = np.array([0, tokens])
    return Batch(last.repeat(tokens) % 2, positions, positions, starts, last + 1, pages[None], last)
