"""Rotary tables against those of transformers, far beyond the training length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import oracle
from transformers import PreTrainedModel

from pagewire.engine.rope_scaling import rope_table
from pagewire.model_config import ModelConfig, parse_config

POSITIONS = [0, 1, 31, 32, 500, 8191, 8192, 10_000]


def config_of(model: PreTrainedModel) -> ModelConfig:
    return parse_config(model.config.to_dict() | {"architectures": [type(model).__name__]})


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama-linear", {}),
        ("llama-llama3", {"head_dim": 64}),
        ("llama-yarn", {"head_dim": 64}),
        ("llama-yarn", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
          "original_max_position_embeddings": 2048, "truncate": False, "beta_fast": 16, "attention_factor": 0.7}}),
        ("llama-yarn", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0,
          "original_max_position_embeddings": 4096, "mscale": 1.5, "mscale_all_dim": 0.5}}),
    ],
)  # fmt: skip
def test_tables_match_transformers(family: str, changes: dict[str, object]) -> None:
    model = oracle(family, **changes)
    table = rope_table(config_of(model), 10_001)
    cos, sin = model.model.rotary_emb(torch.ones(1), torch.tensor([POSITIONS]))
    half = table.cos.shape[1]
    assert np.allclose(table.cos[POSITIONS], cos[0, :, :half].numpy(), atol=2e-3)
    assert np.allclose(table.sin[POSITIONS], sin[0, :, :half].numpy(), atol=2e-3)
    near = slice(0, 4)
    assert np.allclose(table.cos[POSITIONS][near], cos[0, near, :half].numpy(), atol=1e-5)


def test_a_row_does_not_depend_on_the_length_of_the_table() -> None:
    config = config_of(oracle("llama"))
    short, long = rope_table(config, 11), rope_table(replace(config, max_position_embeddings=9), 9000)
    assert np.array_equal(short.cos, long.cos[:11])
    assert np.array_equal(short.sin, long.sin[:11])
