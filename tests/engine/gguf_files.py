"""Writes transformers models as GGUF, as llama.cpp's converter does; independent of pagewire's reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter
from transformers import PreTrainedModel

ARCHS = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}


def write_gguf(
    path: Path, model: PreTrainedModel, arch: str, quant: GGMLQuantizationType, **extra: Any
) -> PreTrainedModel:
    """Write ``model`` with matrices quantised; leave in it the values that the file can express.

    ``extra``: further metadata (rope scaling and such), "__" for ".", and ``rope_freqs``.
    """
    writer = GGUFWriter(path, arch)
    _metadata(writer, model.config, arch, extra)
    names = gguf.get_tensor_name_map(ARCHS[arch], model.config.num_hidden_layers)
    state = model.state_dict()
    for name, tensor in state.items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        kind = quant if tensor.ndim == 2 else GGMLQuantizationType.F32
        values = _permuted(name, tensor.numpy(), model.config) if arch == "llama" else tensor.numpy()
        raw = gguf.quants.quantize(values, kind)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), raw, raw_dtype=kind)
        stored = gguf.quants.dequantize(raw, kind).reshape(values.shape)
        if arch == "llama":
            stored = _restored(name, stored, model.config)
        tensor.copy_(torch.from_numpy(np.array(stored)))
    if "rope_freqs" in extra:
        writer.add_tensor("rope_freqs.weight", extra["rope_freqs"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _metadata(writer: GGUFWriter, c: Any, arch: str, extra: dict[str, Any]) -> None:
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    if arch == "qwen3":
        writer.add_key_length(c.head_dim)
        writer.add_value_length(c.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(c.vocab_size)])
    writer.add_eos_token_id(3)
    writer.add_eot_token_id(5)
    for key, value in extra.items():
        name = f"{arch}.{key.replace('__', '.')}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)


def _heads(name: str, config: Any) -> int:
    """Heads of a q or k projection, else 0."""
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
        name.split(".")[-2], 0
    )


def _permuted(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    if not (heads := _heads(name, config)):
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _restored(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """Row r of the permuted matrix goes back to where _permuted took it from."""
    rows = _permuted(name, np.arange(values.shape[0]), config)
    restored = np.empty_like(values)
    restored[rows] = values
    return restored
