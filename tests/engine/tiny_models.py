"""Tiny random models of every supported family, made by transformers: the oracle of the model tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pagewire.engine.model import Decoder
from pagewire.engine.weights import load_model
from pagewire.hub import resolve
from pagewire.model_config import load_config

SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "attn_implementation": "eager",
    "initializer_range": 0.2,  # large enough that attention is not near uniform
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
FAMILIES: dict[str, tuple[type[PreTrainedModel], type[Any], dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama-tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    "llama-biases": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama-mha": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 6, "head_dim": 16}),
    "llama-llama3": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": {"rope_theta": 500.0, **LLAMA3}}),
    "llama-linear": (
        LlamaForCausalLM,
        LlamaConfig,
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 3.0}},
    ),
    "llama-yarn": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": {"rope_theta": 1e4, **YARN}}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 9}),
    "mistral-full": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen2-window": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16}),
}


def oracle(family: str, **changes: Any) -> PreTrainedModel:
    """A model in float32 whose norms and biases, too, are random."""
    model_class, config_class, entries = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config_class(**{**SIZES, **entries, **changes})).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("norm.weight", ".bias")):
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def ours(folder: Path, **kwargs: Any) -> Decoder:
    source = resolve(str(folder))
    return load_model(source, load_config(source), torch.float32, **kwargs)


def prompt(length: int, seed: int = 1, vocab: int = SIZES["vocab_size"]) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, (length,), generator=generator).tolist()


@torch.inference_mode()
def oracle_logits(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    return model(torch.tensor([tokens])).logits[0]
