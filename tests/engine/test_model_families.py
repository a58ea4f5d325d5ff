"""Every family against transformers, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from paged_world import Paged, relative_error
from tiny_models import FAMILIES, oracle, oracle_logits, ours, prompt

torch.set_num_threads(1)


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path):
    model = oracle(request.param)
    model.save_pretrained(tmp_path)
    return model, ours(tmp_path)


def test_logits_of_a_prompt_match_transformers(pair) -> None:
    model, decoder = pair
    tokens = prompt(40)
    assert relative_error(Paged(decoder).chunked(tokens, 40), oracle_logits(model, tokens)) < 1e-4


def test_logits_match_when_computed_in_chunks_and_then_token_by_token(pair) -> None:
    model, decoder = pair
    tokens, paged = prompt(40), Paged(decoder)
    steps = [(0, 11), (11, 22), *((i, i + 1) for i in range(22, 40))]
    logits = torch.cat([paged.step((0, tokens, a, b))[0] for a, b in steps])
    assert relative_error(logits, oracle_logits(model, tokens)) < 1e-4


def test_sharded_checkpoint_loads_like_a_single_file(tmp_path: Path) -> None:
    model, tokens = oracle("qwen3"), prompt(40)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert relative_error(Paged(ours(tmp_path)).chunked(tokens, 40), oracle_logits(model, tokens)) < 1e-4
