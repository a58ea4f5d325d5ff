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


YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 2048}
FRACTIONS = {"truncate": False, "beta_fast": 16, "attention_factor": 0.7}
MSCALE = {"mscale": 1.5, "mscale_all_dim": 0.5}


@pytest.mark.filterwarnings("ignore:.*RoPE scaling factor")
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama-linear", {}),
        ("llama-llama3", {"head_dim": 64}),
        ("llama-yarn", {"head_dim": 64}),
        ("llama-yarn", {"rope_parameters": YARN | FRACTIONS}),
        ("llama-yarn", {"rope_parameters": YARN | MSCALE}),
    ],
)
def test_tables_match_transformers(family: str, changes: dict[str, object]) -> None:
    model = oracle(family, **changes)
    table = rope_table(config_of(model), 10_001)
    cos, sin = (t[0].numpy() for t in model.model.rotary_emb(torch.ones(1), torch.tensor([POSITIONS])))
    half = table.cos.shape[1]
    assert np.allclose(table.cos[POSITIONS], cos[:, :half], rtol=0, atol=1e-6)
    assert np.allclose(table.sin[POSITIONS], sin[:, :half], rtol=0, atol=1e-6)


def test_a_row_does_not_depend_on_the_length_of_the_table() -> None:
    config = config_of(oracle("llama"))
    short, long = rope_table(config, 11), rope_table(replace(config, max_position_embeddings=9), 9000)
    assert np.array_equal(short.cos, long.cos[:11])
    assert np.array_equal(short.sin, long.sin[:11])
