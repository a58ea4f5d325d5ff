"""Each block format that the gguf package dequantises comes out as gguf has it; names and row order."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGUFWriter
from gguf import GGMLQuantizationType as Quant
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.engine.weights.gguf_file import hf_name, tensors, unpermute
from pagewire.errors import ModelError, UnsupportedModel
from pagewire.model_config import ModelConfig

CONFIG = ModelConfig(
    architecture="LlamaForCausalLM", vocab_size=1, hidden_size=1, intermediate_size=1, layers=1, heads=2,
    kv_heads=2, head_dim=8, max_position_embeddings=1,
)  # fmt: skip
DEQUANTISED = [kind for kind in Quant if kind in gguf.quants._type_traits]


def write(path: Path, name: str, raw: np.ndarray, kind: Quant, arch: str = "llama") -> Path:
    writer = GGUFWriter(path, arch)
    writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", DEQUANTISED, ids=lambda kind: kind.name)
def test_every_quantisation_of_gguf_is_read(tmp_path: Path, kind: Quant) -> None:
    raw = np.random.default_rng(0).integers(0, 24, (3, 2 * GGML_QUANT_SIZES[kind][1]), np.uint8)
    [(name, tensor)] = tensors(write(tmp_path / "m.gguf", "blk.0.ffn_up.weight", raw, kind), CONFIG)
    assert name == "model.layers.0.mlp.up_proj.weight"
    assert np.array_equal(tensor.float().numpy(), gguf.quants.dequantize(raw, kind))


def test_a_type_that_gguf_cannot_dequantise_is_refused_by_name(tmp_path: Path) -> None:
    raw = np.zeros((2, 2 * GGML_QUANT_SIZES[Quant.Q8_K][1]), np.uint8)
    path = write(tmp_path / "m.gguf", "blk.0.ffn_up.weight", raw, Quant.Q8_K)
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.ffn_up\.weight.*Q8_K"):
        list(tensors(path, CONFIG))


def test_truncated_tensor_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "output.weight", np.zeros((8, 8), np.float32), Quant.F32)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"output\.weight"):
        list(tensors(path, CONFIG))


def test_only_llama_files_have_permuted_rows(tmp_path: Path) -> None:
    rows = np.arange(16, dtype=np.float32)[:, None].repeat(4, 1)
    [(_, plain)] = tensors(
        write(tmp_path / "a.gguf", "blk.0.attn_q.weight", rows, Quant.F32, "qwen2"), CONFIG
    )
    [(_, undone)] = tensors(write(tmp_path / "b.gguf", "blk.0.attn_q.weight", rows, Quant.F32), CONFIG)
    assert plain[:8, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert undone[:8, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


@given(heads=st.integers(1, 5), half=st.integers(1, 8), columns=st.integers(1, 3))
@settings(deadline=None)
def test_unpermute_inverts_llama_cpp(heads: int, half: int, columns: int) -> None:
    values = np.random.default_rng(0).random((heads * 2 * half, columns))
    permuted = values.reshape(heads, 2, half, columns).swapaxes(1, 2).reshape(values.shape)
    assert np.array_equal(unpermute(permuted, heads), values)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.12.attn_k.bias", "model.layers.12.self_attn.k_proj.bias"),
        ("blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
        ("blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_inp.weight"),
        ("position_embd.weight", "position_embd.weight"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert hf_name(name) == expected
