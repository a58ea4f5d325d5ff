"""Tensors of a GGUF file, one at a time, under their HuggingFace names: dequantised, or as the file has them.

Knows llama.cpp's tensor names and its order of q and k rows. ``grouped`` knows the formats that are kept; all
others are left to ``gguf.quants``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from torch import Tensor

from kernels.native_library import Grouped
from pagewire.engine.weights import grouped
from pagewire.errors import ModelError, UnsupportedModel
from pagewire.gguf_header import TensorInfo, read_header
from pagewire.model_config import ModelConfig

_WHOLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_IN_CONFIG = "rope_freqs.weight"  # read by pagewire.gguf_config


def tensors(path: Path, config: ModelConfig, *, keep: bool = False) -> Iterator[tuple[str, Tensor | Grouped]]:
    """Every tensor as float32 (or as stored where it is float16) under its HuggingFace name; with ``keep``,
    as ``Grouped`` where its format has that form. Raises ModelError.
    """
    header = read_header(path)
    permuted = header.metadata["general.architecture"] == "llama"
    data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)  # slicing the subclass is slow
    for info in header.tensors.values():
        if info.name == _IN_CONFIG:
            continue
        name = hf_name(info.name)
        heads = config.heads if ".q_proj." in name else config.kv_heads if ".k_proj." in name else 0

        def in_order(values: NDArray[Any], heads: int = heads if permuted else 0) -> Tensor:
            return torch.from_numpy(unpermute(values, heads) if heads else values)

        if keep and info.ggml_type in grouped.BITS:
            codes, scales, offsets = grouped.read(*_raw(data, info))
            yield (
                name,
                Grouped(in_order(codes), in_order(scales), None if offsets is None else in_order(offsets)),
            )
        else:
            yield name, in_order(_values(data, info))


def bits(path: Path) -> dict[str, int]:
    """Of each tensor that ``tensors`` would keep: the bits of a number, 8 or 4."""
    infos = read_header(path).tensors.values()
    return {hf_name(i.name): grouped.BITS[i.ggml_type] for i in infos if i.ggml_type in grouped.BITS}


def hf_name(name: str) -> str:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``. An unknown name stays as it
    is.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    layer, part, kind = match.groups()
    if layer is None:
        return f"{_WHOLE[part]}.{kind}" if part in _WHOLE else name
    return f"model.layers.{layer}.{_LAYER[part]}.{kind}" if part in _LAYER else name


def unpermute(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Undo llama.cpp's order of the rows of q and k ([heads * D, ...]) in files of architecture "llama".

    There the two values that rotate together are neighbours (0, D/2, 1, D/2 + 1, ...); here, as in
    HuggingFace checkpoints, they lie half a head apart.
    """
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _values(data: NDArray[np.uint8], info: TensorInfo) -> NDArray[Any]:
    """A writable array in the tensor's shape: torch aliases nothing else without complaint."""
    kind, raw = _raw(data, info)
    if kind == GGMLQuantizationType.F16:
        return raw.view(np.float16).copy()
    try:
        values: NDArray[Any] = dequantize(raw, kind)
    except NotImplementedError as error:
        raise UnsupportedModel(
            f"the tensor {info.name} is quantised as {kind.name}, not supported"
        ) from error
    return values if values.flags.writeable else values.copy()


def _raw(data: NDArray[np.uint8], info: TensorInfo) -> tuple[GGMLQuantizationType, NDArray[np.uint8]]:
    """The stored bytes, [rows, bytes of a row], still mapped."""
    try:
        kind = GGMLQuantizationType(info.ggml_type)
    except ValueError as error:
        raise UnsupportedModel(f"the tensor {info.name} is of the unknown type {info.ggml_type}") from error
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if info.shape[-1] % block:
        raise ModelError(f"the tensor {info.name} does not fill whole blocks of {kind.name}")
    size = prod(info.shape) // block * block_bytes
    raw = data[info.offset : info.offset + size]
    if raw.size != size:
        raise ModelError(f"the file is truncated in the tensor {info.name}")
    return kind, raw.reshape(*info.shape[:-1], -1)
