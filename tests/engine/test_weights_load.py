"""Filling a decoder: names, shapes, dtypes, progress, shards, dummies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import oracle, ours
from torch import Tensor

from pagewire.engine.model import Decoder
from pagewire.engine.weights import Progress, load_model, safetensors_files
from pagewire.engine.weights.dummy import tensors
from pagewire.engine.weights.load import fill
from pagewire.errors import ConfigError, ModelError
from pagewire.hub import resolve
from pagewire.model_config import ModelConfig, load_config

CONFIG = ModelConfig(
    architecture="Qwen3ForCausalLM", vocab_size=500, hidden_size=48, intermediate_size=80, layers=2, heads=6,
    kv_heads=2, head_dim=16, max_position_embeddings=64, qkv_bias=True, qk_norm=True,
)  # fmt: skip
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    oracle("qwen2").save_pretrained(tmp_path)
    return tmp_path


def filled(folder: Path, dtype: torch.dtype = torch.float32, progress: Progress | None = None) -> Decoder:
    """A decoder whose weights are in place and still plain."""
    decoder = Decoder(load_config(resolve(str(folder))), dtype, torch.device("cpu"))
    fill(decoder.named_weights(), safetensors_files.tensors(folder), progress)
    return decoder


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    stored = load_file(folder / "model.safetensors")
    edit(stored)
    save_file(stored, folder / "model.safetensors")


def test_missing_tensor_is_named(folder: Path) -> None:
    change(folder, lambda stored: stored.pop(NORM))
    with pytest.raises(ModelError, match=NORM):
        ours(folder)


def test_unexpected_tensor_is_named(folder: Path) -> None:
    change(folder, lambda stored: stored.update({"model.extra.weight": torch.ones(2)}))
    with pytest.raises(ModelError, match=r"unexpected tensor model\.extra\.weight"):
        ours(folder)


def test_misshaped_tensor_is_named_with_both_shapes(folder: Path) -> None:
    change(folder, lambda stored: stored.update({NORM: torch.ones(7)}))
    with pytest.raises(ModelError, match=rf"{NORM} has shape \[7\], not \[48\]"):
        ours(folder)


def test_rotary_frequencies_of_old_checkpoints_are_left_out(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(folder, lambda stored: stored.update({name: torch.ones(4)}))
    ours(folder)


def test_head_of_a_tied_checkpoint_is_the_embedding(tmp_path: Path) -> None:
    oracle("llama-tied").save_pretrained(tmp_path)
    change(tmp_path, lambda stored: stored.update({"lm_head.weight": torch.zeros(160, 48)}))
    decoder = filled(tmp_path)
    assert decoder.lm_head is decoder.embed
    assert decoder.embed.any()


def test_bfloat16_checkpoint_widens_exactly(tmp_path: Path) -> None:
    model = oracle("llama").bfloat16()
    model.save_pretrained(tmp_path)
    assert torch.equal(ours(tmp_path).embed, model.model.embed_tokens.weight.float())


def test_weights_take_the_dtype_asked_for(folder: Path) -> None:
    weights = filled(folder, torch.bfloat16).named_weights()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_progress_ends_at_the_size_in_memory(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    decoder = filled(folder, progress=lambda done, total: seen.append((done, total)))
    size = sum(weight.nbytes for weight in decoder.named_weights().values())
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


def test_folder_without_safetensors_says_so(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        ours(folder)


def test_damaged_file_is_a_model_error(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        ours(folder)


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "absent.safetensors"])
def test_index_cannot_name_files_elsewhere(folder: Path, shard: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NORM: shard}}))
    with pytest.raises(ModelError, match="not in the folder"):
        ours(folder)


def test_index_that_is_no_index_is_a_model_error(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="not an index"):
        ours(folder)


def dummy() -> dict[str, Tensor]:
    places = Decoder(CONFIG, torch.float32, torch.device("cpu")).named_weights()
    return dict(tensors({name: place.shape for name, place in places.items()}))


def test_dummy_model_needs_only_a_config() -> None:
    assert load_model(None, CONFIG, torch.float32, load_format="dummy").config == CONFIG


def test_dummy_weights_are_the_same_every_time() -> None:
    first, second = dummy(), dummy()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_dummy_weights_differ_from_tensor_to_tensor() -> None:
    q = [dummy()[f"model.layers.{i}.self_attn.q_proj.weight"] for i in (0, 1)]
    assert not torch.equal(*q)


def test_dummy_weights_keep_the_scale_of_their_input() -> None:
    product = torch.randn(64, 48) @ dummy()["lm_head.weight"].T
    assert 0.8 < product.std() < 1.2


def test_dummy_norms_are_one() -> None:
    assert dummy()[NORM].eq(1).all()


def test_unknown_load_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="pickle"):
        load_model(None, CONFIG, torch.float32, load_format="pickle")


def test_no_files_and_no_dummy_is_refused() -> None:
    with pytest.raises(ConfigError, match="dummy"):
        load_model(None, CONFIG, torch.float32)
