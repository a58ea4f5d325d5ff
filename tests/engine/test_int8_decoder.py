"""The int8 decoder: near float32, and a row's bits depend on nothing but its own sequence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from paged_world import Paged
from tiny_models import oracle, ours, prompt

from kernels import native_library as native
from pagewire.engine.model import Decoder
from pagewire.errors import ConfigError

pytestmark = pytest.mark.skipif(not native.available(), reason="no C++ compiler when this was installed")

SIZES = {"hidden_size": 96, "head_dim": 16, "intermediate_size": 200}
TOKENS = prompt(150)


@pytest.fixture(scope="module", params=["llama-llama3", "llama-biases", "mistral", "qwen2-window", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model")
    oracle(request.param, **SIZES, max_position_embeddings=256).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Decoder:
    torch.set_num_threads(1)
    return ours(folder, quantization="int8")


def rounded(x: torch.Tensor) -> torch.Tensor:
    """x[R, K], each 64 numbers along K rounded to 127 steps of their largest."""
    groups = torch.nn.functional.pad(x, (0, -x.shape[1] % 64)).view(len(x), -1, 64)
    step = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return ((groups / step).round() * step).view(len(x), -1)[:, : x.shape[1]]


def rounded_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.linear(rounded(x), rounded(weight), bias)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_it_is_the_float32_decoder_with_rounded_products(
    folder: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = ours(folder)
    exact, got = Paged(wide).chunked(TOKENS, 150), Paged(decoder).chunked(TOKENS, 150)
    monkeypatch.setattr(Decoder, "pack", lambda self: None)
    wide = ours(folder)
    monkeypatch.setattr("pagewire.engine.model.linear", rounded_linear)
    want = Paged(wide).chunked(TOKENS, 150)
    # Where a sum differs in its last bit, a number may fall to the other side of a step.
    assert error(got, want) < error(got, exact) / 2 < 0.05


@pytest.mark.parametrize("chunk", [64, 33, 1])
def test_chunks_do_not_change_a_bit(decoder: Decoder, chunk: int) -> None:
    whole, parts = Paged(decoder), Paged(decoder)
    assert torch.equal(whole.chunked(TOKENS, 150), parts.chunked(TOKENS, chunk))
    assert whole.kv_of(0, 150) == parts.kv_of(0, 150)


def test_page_size_does_not_change_a_bit(decoder: Decoder) -> None:
    small, large = Paged(decoder, page_size=4), Paged(decoder, page_size=16)
    assert torch.equal(small.chunked(TOKENS, 150), large.chunked(TOKENS, 150))
    assert small.kv_of(0, 150) == large.kv_of(0, 150)


def test_neighbours_do_not_change_a_bit(decoder: Decoder) -> None:
    tokens, others = TOKENS[:40], [prompt(33, seed=2), prompt(5, seed=3)]
    alone, crowd = Paged(decoder), Paged(decoder, sequences=3)
    crowd.step((0, others[0], 0, 20), (2, others[1], 0, 4))
    first = crowd.step((0, others[0], 20, 33), (1, tokens, 0, 39), (2, others[1], 4, 5))[1]
    last = crowd.step((1, tokens, 39, 40), (0, [*others[0], 9], 33, 34))[0]
    assert torch.equal(alone.chunked(tokens, 40), torch.cat([first, last]))
    assert alone.kv_of(0, 40) == crowd.kv_of(1, 40)


def test_threads_do_not_change_a_bit(folder: Path, decoder: Decoder) -> None:
    torch.set_num_threads(2)
    try:
        two = ours(folder, quantization="int8")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(Paged(decoder).chunked(TOKENS, 50), Paged(two).chunked(TOKENS, 50))


def test_each_layer_is_told_when_it_is_stored(decoder: Decoder) -> None:
    told: list[int] = []
    runner = Paged(decoder).runner
    forward = decoder.forward
    runner.decoder.forward = lambda *a: forward(*a[:5], told.append)  # type: ignore[method-assign]
    try:
        runner.warm_up()
    finally:
        del runner.decoder.forward
    assert told == [1, 2, 3] * 2


def test_what_it_cannot_compute_is_a_config_error(tmp_path: Path) -> None:
    oracle("llama").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="head_dim that is a multiple of 16, not 8"):
        ours(tmp_path, quantization="int8")
    with pytest.raises(ConfigError, match="none or int8"):
        ours(tmp_path, quantization="int4")
