"""Models of known shapes with made-up weights, on the device at once: no file, no download.

The weights are drawn on the device itself, so they are not those of ``--load-format dummy``, which are the
same on every host and take a minute to draw for a model of this size.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.case import World
from pagewire.config import EngineConfig
from pagewire.engine.chunk_graphs import MOST_ROWS
from pagewire.engine.engine import Engine
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.model import Decoder
from pagewire.engine.runner import ModelRunner
from pagewire.layout import KVLayout
from pagewire.model_config import ModelConfig, parse_config

QWEN25_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "eos_token_id": 151645,
}
QWEN3_06B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 151645,
}
TINY: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "eos_token_id": 1,
}
PAGE_SIZE = 16


def config_of(world: World, shape: dict[str, Any]) -> ModelConfig:
    return parse_config(TINY if world.tiny else shape)


def engine_for(
    world: World,
    config: ModelConfig,
    *,
    rows: int,
    kv_tokens: int,
    max_model_len: int,
    deterministic: bool = False,
    async_scheduling: bool = True,
) -> Engine:
    """One whose steps are captured up to ``rows`` sequences, its pages for ``kv_tokens`` full of noise. A
    prompt is read in one step. No prefix cache: it would answer in its place.
    """
    dtype = torch.float32 if world.device.type == "cpu" else torch.bfloat16
    decoder = Decoder(config, dtype, world.device, max_model_len, deterministic=deterministic)
    for name, weight in decoder.named_weights().items():
        bound = (3.0 / weight.shape[-1]) ** 0.5  # the sum keeps its scale
        _ = weight.fill_(1.0) if name.endswith("norm.weight") else weight.uniform_(-bound, bound)
    decoder.pack()
    layout = KVLayout(
        config.layers, config.kv_heads, config.head_dim, str(dtype).removeprefix("torch."), "made up"
    )
    pages = -(-kv_tokens // PAGE_SIZE) + rows
    cache = KVCache(layout, pages, PAGE_SIZE, world.device)
    for layer in cache.pages:
        layer.normal_()
    runner = ModelRunner(decoder, cache, rows)
    engine_config = EngineConfig(
        max_model_len=max_model_len,
        num_pages=pages,
        page_size=PAGE_SIZE,
        max_batch_tokens=max(rows, max_model_len),
        max_num_seqs=rows,
        prefix_caching=False,
        async_scheduling=async_scheduling,
    )
    runner.capture_chunks(min(MOST_ROWS, max_model_len), 64, max_model_len)
    runner.capture(rows, max_model_len)
    return Engine(engine_config, runner, config.eos_token_ids)


def products(config: ModelConfig) -> tuple[int, int]:
    """Weights that a token is multiplied by in all layers, and in the head."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    return config.layers * layer, config.hidden_size * config.vocab_size


def kv_bytes(engine: Engine) -> int:
    """Of one token."""
    return engine.runner.cache.layout.token_bytes
