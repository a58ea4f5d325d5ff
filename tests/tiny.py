"""Tiny real models for tests: a folder with a config, whose weights are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pagewire.engine.sequence import Sequence, end_of
from pagewire.hub import ModelSource
from pagewire.messages import RequestId
from pagewire.sampling import SamplingParams

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
}


def model_folder(folder: Path, **changes: Any) -> ModelSource:
    """Write a config into ``folder``; load it with load_format "dummy"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    return ModelSource(folder.name, folder)


def sequence(
    tokens: list[int], params: SamplingParams, name: str = "r", seed: int = 7, max_model_len: int = 512
) -> Sequence:
    return Sequence(
        RequestId(name),
        1,
        list(range(params.n)),
        list(tokens),
        len(tokens),
        params,
        seed,
        end_of(len(tokens), params, max_model_len),
    )
