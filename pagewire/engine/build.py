"""From a model's name to a running engine: config, weights, KV memory, scheduler.

The one place in the library that puts the parts together; nodes and offline generation both call it. Knows
devices and sizes; knows no role and no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

import torch

from pagewire.config import CPU_KV_BYTES, EngineConfig
from pagewire.engine import gpu_memory
from pagewire.engine.chunk_graphs import MOST_ROWS
from pagewire.engine.engine import Engine
from pagewire.engine.kv_cache import KVCache, pages_for
from pagewire.engine.packed_decoder import AnyDecoder
from pagewire.engine.runner import ModelRunner, one_prompt
from pagewire.engine.weights import load_model, quantization_for
from pagewire.errors import ConfigError
from pagewire.grammars import grammars_of
from pagewire.hub import ModelSource
from pagewire.layout import KVLayout
from pagewire.model_config import ModelConfig, fingerprint, kv_layout, load_config

Progress = Callable[[int, int], None]
BATCH_TOKENS = {
    "cpu": 256,
    "cuda": 2048,
}  # on a CPU larger steps are no faster, and others wait for their end
CHUNKS, DECODES = CAPTURES = ("chunks", "decodes")


class Built(NamedTuple):
    engine: Engine
    model: ModelConfig
    layout: KVLayout
    device: torch.device


def build_engine(
    source: ModelSource,
    *,
    dtype: str = "auto",
    load_format: str = "auto",
    quantization: str = "auto",
    kv_cache_dtype: str = "auto",
    activation_bits: str = "auto",
    max_model_len: int | None = None,
    kv_cache_bytes: int | None = None,
    gpu_memory_utilization: float = 0.9,
    page_size: int = 16,
    max_batch_tokens: int | None = None,
    max_mixed_tokens: int | None = None,
    max_num_seqs: int = 64,
    prefix_caching: bool = True,
    async_scheduling: bool | None = None,
    capture: Collection[str] = CAPTURES,
    deterministic: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Load ``source`` and give it ``kv_cache_bytes`` of KV memory. ``progress(done, total)`` counts weight
    bytes.

    ``dtype`` "auto" is bfloat16 on a GPU and float32 on a CPU. ``quantization``: see
    ``weights.quantization_for``; ``activation_bits``: see ``PackedDecoder``. ``kv_cache_dtype``
    "auto" is bfloat16 where the weights are of 8 or 4 bits, else the dtype that is computed in.
    ``kv_cache_bytes`` None: 1 GiB on a CPU; on a GPU what ``gpu_memory_utilization`` leaves
    (``gpu_memory``). ``max_model_len`` None is as far as the model's own config goes. ``async_scheduling``
    None: on a GPU. ``max_batch_tokens`` None: 256 on a CPU, 2048 on a GPU. ``capture``, on a GPU: which
    steps become graphs. ``deterministic``: on a GPU use only kernels whose rows do not depend on the batch;
    those of the CPU never do. Raises ModelError or ConfigError.
    """
    model = load_config(source)
    if max_model_len is not None and max_model_len > model.context_length:
        raise ConfigError(
            f"--max-model-len {max_model_len} is beyond the model's own limit, {model.context_length} tokens"
        )
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    max_batch_tokens = max_batch_tokens or BATCH_TOKENS[device.type]
    torch_dtype = _dtype(dtype, device)
    quantization = quantization_for(quantization, source, model, dtype, device)
    precision = quantization if quantization == "none" else f"{quantization}, rows in {activation_bits}"
    if deterministic and device.type != "cpu":
        precision += ", deterministic"
    kv_dtype = _kv_dtype(kv_cache_dtype, torch_dtype, device, quantization)
    layout = kv_layout(model, kv_dtype, fingerprint(source, load_format, precision))
    limit = max_model_len or model.context_length
    if kv_cache_bytes is None and device.type == "cpu":
        kv_cache_bytes = CPU_KV_BYTES
    if kv_cache_bytes is not None:
        limit = min(limit, pages_for(kv_cache_bytes, layout, page_size) * page_size)
    with gpu_memory.explained("loading the weights", device):
        decoder = load_model(
            source, model, torch_dtype, device, load_format, progress, limit, quantization, activation_bits,
            deterministic=deterministic,
        )  # fmt: skip
    if kv_cache_bytes is None:
        trial = partial(_largest_step, decoder, layout, page_size, min(max_batch_tokens, limit))
        with gpu_memory.explained("trying the largest step", device):
            memory = gpu_memory.measure(device, trial)
        kv_cache_bytes = gpu_memory.kv_bytes(memory, gpu_memory_utilization)
    num_pages = pages_for(kv_cache_bytes, layout, page_size)
    config = EngineConfig(
        max_model_len=min(limit, num_pages * page_size),
        num_pages=num_pages,
        page_size=page_size,
        max_batch_tokens=max_batch_tokens,
        max_mixed_tokens=max_mixed_tokens,
        max_num_seqs=max_num_seqs,
        prefix_caching=prefix_caching,
        async_scheduling=device.type == "cuda" if async_scheduling is None else async_scheduling,
    )
    with gpu_memory.explained("allocating the KV cache", device):
        runner = ModelRunner(decoder, KVCache(layout, num_pages, page_size, device), max_num_seqs)
        runner.warm_up()
        if CHUNKS in capture and device.type == "cuda":
            runner.capture_chunks(min(max_batch_tokens, MOST_ROWS), max_num_seqs, config.max_model_len)
        if DECODES in capture and device.type == "cuda":
            runner.capture(max_num_seqs, config.max_model_len)
    grammars = grammars_of(source, runner.vocab_size, model.eos_token_ids)
    return Built(Engine(config, runner, model.eos_token_ids, grammars), model, layout, device)


def _largest_step(decoder: AnyDecoder, layout: KVLayout, page_size: int, tokens: int) -> None:
    """Compute one prompt of ``tokens`` tokens, with pages for just that."""
    pages = -(-tokens // page_size)
    runner = ModelRunner(decoder, KVCache(layout, pages, page_size, decoder.device))
    runner.forward(one_prompt(tokens, page_size))


def _kv_dtype(name: str, computed: torch.dtype, device: torch.device, quantization: str) -> str:
    own = str(computed).removeprefix("torch.")
    if name == "auto":
        return own if quantization == "none" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise ConfigError(f"--kv-cache-dtype {name}: use auto, float32 or bfloat16")
    if device.type != "cpu" and name != own:
        raise ConfigError(f"--kv-cache-dtype {name}: on a GPU the KV cache is in the --dtype, {own}")
    return name


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    try:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    except KeyError:
        raise ConfigError(f"--dtype {name}: use auto, float32, bfloat16 or float16") from None
