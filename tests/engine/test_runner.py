"""The runner: which rows have logits, where KV goes, and other dtypes than float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from paged_world import Paged, runner_for

from pagewire.engine.batch import Batch
from pagewire.engine.model import Decoder
from pagewire.engine.weights import load_model
from pagewire.model_config import ModelConfig

torch.set_num_threads(1)
CONFIG = ModelConfig(
    architecture="LlamaForCausalLM", vocab_size=64, hidden_size=32, intermediate_size=48, layers=2, heads=4,
    kv_heads=2, head_dim=8, max_position_embeddings=64,
)  # fmt: skip
TOKENS = [3, 14, 15, 9, 2, 6]


def decoder(dtype: torch.dtype = torch.float32) -> Decoder:
    return load_model(None, CONFIG, dtype, load_format="dummy")


def batch(logit_rows: list[int]) -> Batch:
    count = len(TOKENS)
    return Batch(
        token_ids=np.array(TOKENS),
        positions=np.arange(count),
        slots=np.array([20, 21, 22, 23, 8, 9]),  # pages 5 and 2, of 4
        query_starts=np.array([0, count]),
        context_lens=np.array([count]),
        page_tables=np.array([[5, 2]]),
        logit_rows=np.array(logit_rows, np.int64),
    )


def test_logits_are_of_the_rows_asked_for_in_their_order() -> None:
    every, some = (runner_for(decoder()).forward(batch(rows)) for rows in ([0, 1, 2, 3, 4, 5], [5, 1]))
    assert torch.equal(some, every[[5, 1]])


def test_no_row_wanted_gives_no_logits() -> None:
    assert runner_for(decoder()).forward(batch([])).shape == (0, 64)


def test_kv_goes_to_the_slots_and_nowhere_else() -> None:
    runner = runner_for(decoder())
    runner.forward(batch([5]))
    used = runner.cache.pages.abs().sum((0, 1, 4, 5)).nonzero().tolist()
    assert used == [[2, 0], [2, 1], [5, 0], [5, 1], [5, 2], [5, 3]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype: torch.dtype) -> None:
    exact = Paged(decoder()).chunked(TOKENS, 6)
    rounded = Paged(decoder(dtype)).chunked(TOKENS, 6)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() / exact.abs().max() < 0.05


def test_what_lies_in_unused_slots_does_not_matter() -> None:
    clean, dirty = runner_for(decoder()), runner_for(decoder())
    dirty.cache.pages.fill_(1e4)
    assert torch.equal(clean.forward(batch([5])), dirty.forward(batch([5])))
