"""GGUF metadata retold in the vocabulary of a HuggingFace ``config.json``.

Knows the metadata keys of llama.cpp's llama, mistral, qwen2 and qwen3 models; decides nothing about what is
supported, reads no weights beyond the few rope factors that Llama 3.1 stores as a tensor, and loads no torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pagewire.errors import ModelError
from pagewire.gguf_header import GGUFHeader, TensorInfo, read_header

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_KEYS = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "context_length": "max_position_embeddings",
}
_F32 = 0  # gguf.GGMLQuantizationType.F32
# End of sequence, of a chat turn, and of a message that calls a tool: generation ends at each.
_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def config_json(path: Path) -> dict[str, Any]:
    """What config.json would say of this file. An architecture that is not known keeps its GGUF name."""
    header = read_header(path)
    meta = header.metadata
    arch = str(meta.get("general.architecture", "unknown"))
    if arch not in _ARCHITECTURES or meta.get(f"{arch}.expert_count"):
        experts = " with experts" if arch in _ARCHITECTURES else ""
        return {"architectures": [f"GGUF architecture {arch!r}{experts}"]}
    if int(meta.get("split.count", 1)) > 1:
        raise ModelError(
            f"{path.name} is one part of a split GGUF model; join the parts with llama-gguf-split"
        )
    config = {ours: meta[f"{arch}.{theirs}"] for theirs, ours in _KEYS.items() if f"{arch}.{theirs}" in meta}
    config |= _uniform_heads(config)
    if meta.get(f"{arch}.attention.value_length", config.get("head_dim")) != config.get("head_dim"):
        raise ModelError(f"{path.name} has keys and values of different length, which is not supported")
    tensors = header.tensors
    if "token_embd.weight" not in tensors:
        raise ModelError(f"{path.name} has no tensor token_embd.weight")
    return config | {
        "architectures": [_architecture(arch, config)],
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "use_sliding_window": bool(config.get("sliding_window")),
        "max_window_layers": 0,
        "sliding_window": config.get("sliding_window"),
        "rotary_dim": meta.get(f"{arch}.rope.dimension_count"),
        "rope_parameters": _rope(path, arch, header),
        "eos_token_id": [meta[key] for k in _EOS_KEYS if (key := f"tokenizer.ggml.{k}") in meta],
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "torch_dtype": "float16",
    }


def _architecture(arch: str, config: dict[str, Any]) -> str:
    """Mistral files carry the name llama; a sliding window is what sets some of them apart."""
    if arch == "llama" and config.get("sliding_window"):
        return _ARCHITECTURES["mistral"]
    return _ARCHITECTURES[arch]


def _uniform_heads(config: dict[str, Any]) -> dict[str, Any]:
    """Some files list one head count a layer; they are one number here."""
    uniform = {}
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        value = config.get(key)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise ModelError(f"{key} differs from layer to layer, which is not supported")
            uniform[key] = value[0]
    return uniform


def _rope(path: Path, arch: str, header: GGUFHeader) -> dict[str, Any]:
    """``rope_parameters``. Sources: llama.cpp's metadata, and ``rope_freqs.weight`` where it is present."""
    meta = header.metadata
    rope: dict[str, Any] = {"rope_theta": meta.get(f"{arch}.rope.freq_base", 10000.0)}
    if "rope_freqs.weight" in header.tensors:
        factors = _read_f32(path, header.tensors["rope_freqs.weight"])
        return rope | {"rope_type": "factors", "factors": factors}
    kind = str(meta.get(f"{arch}.rope.scaling.type", "none"))
    factor = float(meta.get(f"{arch}.rope.scaling.factor", meta.get(f"{arch}.rope.scale_linear", 1.0)))
    if kind == "none" and factor != 1.0:
        kind = "linear"
    if kind == "none":
        return rope | {"rope_type": "default"}
    rope |= {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        # llama.cpp multiplies its attention factor by YaRN's own; config.json states the product.
        extra = float(meta.get(f"{arch}.rope.scaling.attn_factor", 1.0))
        rope["attention_factor"] = extra * (0.1 * math.log(factor) + 1.0) if factor > 1 else extra
        for theirs, ours in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
            if f"{arch}.rope.scaling.{theirs}" in meta:
                rope[ours] = meta[f"{arch}.rope.scaling.{theirs}"]
        if f"{arch}.rope.scaling.original_context_length" in meta:
            original = meta[f"{arch}.rope.scaling.original_context_length"]
            rope["original_max_position_embeddings"] = original
    return rope


def _read_f32(path: Path, tensor: TensorInfo) -> list[float]:
    if tensor.ggml_type != _F32 or len(tensor.shape) != 1:
        raise ModelError(f"the tensor {tensor.name} of {path.name} is not a float32 vector")
    with path.open("rb") as file:
        file.seek(tensor.offset)
        data = file.read(4 * tensor.shape[0])
    if len(data) != 4 * tensor.shape[0]:
        raise ModelError(f"{path.name} is truncated in the tensor {tensor.name}")
    return [float(x) for x in np.frombuffer(data, "<f4")]
