"""GGUF files of tiny models, quantised several ways, against transformers holding the dequantised weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Quant
from gguf_files import write_gguf
from paged_world import Paged, relative_error
from tiny_models import oracle, oracle_logits, ours, prompt
from transformers import PreTrainedModel

from pagewire.errors import ModelError, UnsupportedModel
from pagewire.hub import resolve
from pagewire.model_config import load_config

torch.set_num_threads(1)
TOKENS = prompt(40)
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
}  # whole blocks of 32


def error(path: Path, model: PreTrainedModel) -> float:
    return relative_error(Paged(ours(path)).chunked(TOKENS, 40), oracle_logits(model, TOKENS))


@pytest.mark.parametrize("quant", [Quant.F32, Quant.F16, Quant.BF16, Quant.Q8_0, Quant.Q4_0, Quant.Q5_1])
def test_llama_in_each_quantisation(tmp_path: Path, quant: Quant) -> None:
    path = tmp_path / "m.gguf"
    assert error(path, write_gguf(path, oracle("llama", **SIZES), "llama", quant)) < 1e-4


@pytest.mark.parametrize(
    ("family", "arch"),
    [
        ("llama-tied", "llama"),
        ("llama-biases", "llama"),
        ("mistral-full", "llama"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
    ],
)
def test_each_family(tmp_path: Path, family: str, arch: str) -> None:
    path = tmp_path / "m.gguf"
    changes = SIZES | ({"mlp_bias": False} if family == "llama-biases" else {})
    assert error(path, write_gguf(path, oracle(family, **changes), arch, Quant.Q8_0)) < 1e-4


def test_sliding_window_of_a_mistral_file(tmp_path: Path) -> None:
    path, model = tmp_path / "m.gguf", oracle("mistral", **SIZES)
    assert error(path, write_gguf(path, model, "llama", Quant.F16, attention__sliding_window=9)) < 1e-4


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("llama-linear", {"rope__scaling__type": "linear", "rope__scaling__factor": 3.0}),
        ("llama-linear", {"rope__scale_linear": 3.0}),
        (
            "llama-yarn",
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 32,
            },
        ),
    ],
)
def test_rope_scaling_in_metadata(tmp_path: Path, family: str, extra: dict[str, Any]) -> None:
    path = tmp_path / "m.gguf"
    assert error(path, write_gguf(path, oracle(family, **SIZES), "llama", Quant.F16, **extra)) < 1e-4


def test_llama3_rope_factors_in_a_tensor(tmp_path: Path) -> None:
    path, model = tmp_path / "m.gguf", oracle("llama-llama3", **SIZES)
    scaled = model.model.rotary_emb.inv_freq.numpy()
    plain = 500.0 ** (-np.arange(0, 16, 2) / 16)
    factors = (plain / scaled).astype(np.float32)
    assert error(path, write_gguf(path, model, "llama", Quant.F16, rope_freqs=factors)) < 1e-4


def test_every_end_token_is_kept(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", oracle("llama", **SIZES), "llama", Quant.F16)
    assert load_config(resolve(str(tmp_path / "m.gguf"))).eos_token_ids == (3, 5)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"expert_count": 8}, "llama.*experts"),
        ({"rope__scaling__type": "longrope"}, "longrope"),
        ({"rope__dimension_count": 8}, "part of each head"),
    ],
)
def test_unsupported_files_are_refused_by_name(tmp_path: Path, extra: dict[str, Any], named: str) -> None:
    write_gguf(tmp_path / "m.gguf", oracle("llama", **SIZES), "llama", Quant.F16, **extra)
    with pytest.raises(UnsupportedModel, match=named):
        load_config(resolve(str(tmp_path / "m.gguf")))


def test_a_file_cut_short_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, oracle("llama", **SIZES), "llama", Quant.F16)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"tensor|truncated"):
        ours(path)
