"""config.json and GGUF metadata into ModelConfig; what is refused, and by what name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pagewire.errors import ModelError, UnsupportedModel
from pagewire.hub import ModelSource
from pagewire.model_config import ModelConfig, fingerprint, kv_layout, load_config, parse_config
from pagewire.rope_config import RopeScaling

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def parse(architecture: str = "LlamaForCausalLM", **changes: Any) -> ModelConfig:
    return parse_config(LLAMA | {"architectures": [architecture]} | changes)


def folder(path: Path, **files: Any) -> ModelSource:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return ModelSource("m", path)


def test_silent_entries_take_the_defaults_of_transformers() -> None:
    assert parse() == ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=100,
        hidden_size=64,
        intermediate_size=96,
        layers=4,
        heads=8,
        kv_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
    )


def test_head_dim_of_qwen3_is_its_own() -> None:
    assert parse("Qwen3ForCausalLM").head_dim == 128


def test_kv_heads_default_to_heads() -> None:
    assert parse(num_key_value_heads=None).kv_heads == 8


@pytest.mark.parametrize(
    ("architecture", "entries", "expected"),
    [
        ("LlamaForCausalLM", {}, (False, False, False)),
        ("LlamaForCausalLM", {"attention_bias": True}, (True, True, False)),
        ("LlamaForCausalLM", {"mlp_bias": True}, (False, False, True)),
        ("MistralForCausalLM", {"attention_bias": True}, (False, False, False)),
        ("Qwen2ForCausalLM", {}, (True, False, False)),
        ("Qwen3ForCausalLM", {"attention_bias": True}, (True, True, False)),
    ],
)
def test_biases(architecture: str, entries: dict[str, Any], expected: tuple[bool, ...]) -> None:
    config = parse(architecture, **entries)
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == expected


@pytest.mark.parametrize(
    ("architecture", "entries", "expected"),
    [
        ("LlamaForCausalLM", {"sliding_window": 16}, [None] * 4),
        ("MistralForCausalLM", {"sliding_window": 16}, [16] * 4),
        ("MistralForCausalLM", {"sliding_window": None}, [None] * 4),
        ("MistralForCausalLM", {}, [4096] * 4),
        ("Qwen2ForCausalLM", {"sliding_window": 16}, [None] * 4),
        (
            "Qwen2ForCausalLM",
            {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 3},
            [None, None, None, 16],
        ),
        (
            "Qwen3ForCausalLM",
            {
                "sliding_window": 16,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            [16, None, 16, None],
        ),
    ],
)
def test_sliding_window_by_layer(architecture: str, entries: dict[str, Any], expected: list[Any]) -> None:
    config = parse(architecture, **entries)
    assert [config.window(layer) for layer in range(4)] == expected


def test_rope_of_transformers_4() -> None:
    config = parse(rope_theta=5e5, rope_scaling=YARN)
    assert (config.rope_theta, config.rope) == (
        5e5,
        RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=64),
    )


def test_rope_of_transformers_5_reads_the_same() -> None:
    new = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 64}
    assert parse(rope_parameters=new) == parse(rope_theta=5e5, rope_scaling=YARN)


def test_rope_numbers_of_llama3() -> None:
    scaling = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 2, "high_freq_factor": 5}
    assert parse(rope_scaling=scaling).rope == RopeScaling(
        kind="llama3",
        factor=8.0,
        low_freq_factor=2.0,
        high_freq_factor=5.0,
        original_max_position_embeddings=256,
    )


def test_yarn_lengthens_the_context() -> None:
    assert parse(max_position_embeddings=64, rope_scaling=YARN).context_length == 256


def test_factor_of_yarn_follows_from_the_lengths() -> None:
    assert parse(rope_scaling=YARN | {"factor": None}).rope.factor == 4.0


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ({"architectures": None, "model_type": "gpt2"}, "gpt2"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"partial_rotary_factor": 0.5}, "part of each head"),
    ],
)
def test_unsupported_models_are_refused_by_name(entries: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        parse_config(LLAMA | entries)


def test_a_refused_architecture_is_told_what_is_supported() -> None:
    with pytest.raises(UnsupportedModel, match=r"Llama.*Mistral.*Qwen2.*Qwen3"):
        parse("GPT2LMHeadModel")


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"num_key_value_heads": 3}, "3 KV heads"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
    ],
)
def test_impossible_entries_are_named(entries: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        parse_config(LLAMA | entries)


def test_eos_comes_from_both_files_without_repeats(tmp_path: Path) -> None:
    config, generation = LLAMA | {"eos_token_id": 7}, {"eos_token_id": [7, 9]}
    assert load_config(folder(tmp_path, config=config, generation_config=generation)).eos_token_ids == (7, 9)


def test_broken_json_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_config(ModelSource("m", tmp_path))


def weighted(path: Path, data: bytes, **changes: Any) -> ModelSource:
    source = folder(path, config=LLAMA | changes)
    (path / "model.safetensors").write_bytes(data)
    return source


def test_fingerprint_is_of_content_not_of_place(tmp_path: Path) -> None:
    a, b = weighted(tmp_path / "a", b"w" * 9000), weighted(tmp_path / "b", b"w" * 9000)
    assert fingerprint(a) == fingerprint(b)


@pytest.mark.parametrize("changes", [{"rope_theta": 5e5}, {"rms_norm_eps": 1e-5}])
def test_fingerprint_sees_the_config(tmp_path: Path, changes: dict[str, Any]) -> None:
    a, b = weighted(tmp_path / "a", b"w"), weighted(tmp_path / "b", b"w", **changes)
    assert fingerprint(a) != fingerprint(b)


def test_fingerprint_leaves_out_what_does_not_shape_the_kv(tmp_path: Path) -> None:
    a, b = weighted(tmp_path / "a", b"w"), weighted(tmp_path / "b", b"w", eos_token_id=3)
    assert fingerprint(a) == fingerprint(b)


@pytest.mark.parametrize("data", [b"w" * 9001, b"w" * 8999 + b"x", b"x" + b"w" * 8999])
def test_fingerprint_sees_the_weights(tmp_path: Path, data: bytes) -> None:
    a, b = weighted(tmp_path / "a", b"w" * 9000), weighted(tmp_path / "b", data)
    assert fingerprint(a) != fingerprint(b)


def test_fingerprint_of_dummy_weights_reads_no_file(tmp_path: Path) -> None:
    a, b = weighted(tmp_path / "a", b"1"), weighted(tmp_path / "b", b"2")
    assert fingerprint(a, "dummy") == fingerprint(b, "dummy") != fingerprint(a)


def test_kv_layout_counts_the_kv_heads() -> None:
    layout = kv_layout(parse(), "bfloat16", "f")
    assert layout.slab_shape(5) == (4, 2, 5, 2, 8)


def test_model_config_loads_no_torch() -> None:
    code = "import sys, pagewire.model_config; sys.exit('torch' in sys.modules or 'gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
