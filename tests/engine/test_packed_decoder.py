"""The packed decoder: near float32, and a row's bits depend on nothing but its own sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import write_gguf
from paged_world import Paged
from tiny_models import oracle, ours, prompt

from kernels import native_library as native
from pagewire.engine.model import Decoder
from pagewire.engine.packed_decoder import PackedDecoder
from pagewire.engine.weights import quantization_for
from pagewire.errors import ConfigError
from pagewire.hub import resolve
from pagewire.model_config import load_config

pytestmark = pytest.mark.skipif(not native.available(), reason="no C++ compiler when this was installed")

SIZES = {"hidden_size": 96, "head_dim": 16, "intermediate_size": 200}
TOKENS = prompt(150)


@pytest.fixture(scope="module", params=["llama-llama3", "llama-biases", "mistral", "qwen2-window", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model")
    oracle(request.param, **SIZES, max_position_embeddings=256).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def decoder(folder: Path) -> PackedDecoder:
    torch.set_num_threads(1)
    return ours(folder, quantization="int8")


def float32_with(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weight_of: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Logits of the float32 decoder, had it other weights."""

    def other_linear(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, invariant: bool
    ) -> torch.Tensor:
        return torch.nn.functional.linear(x, weight_of(weight), bias)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "pack", lambda self: None)
        patch.setattr("pagewire.engine.model.linear", other_linear)
        return Paged(ours(path)).chunked(TOKENS, 150)


def in_8_bits(weight: torch.Tensor) -> torch.Tensor:
    return native.Packed.of(weight).rows(torch.arange(len(weight)))


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_it_is_the_float32_decoder_with_rounded_weights(
    folder: Path, decoder: PackedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, got = Paged(ours(folder)).chunked(TOKENS, 150), Paged(decoder).chunked(TOKENS, 150)
    want = float32_with(folder, monkeypatch, weight_of=in_8_bits)
    assert error(got, want) < 2e-3 < error(got, exact) < 0.1


@pytest.mark.parametrize("chunk", [64, 33, 1])
def test_chunks_do_not_change_a_bit(decoder: PackedDecoder, chunk: int) -> None:
    whole, parts = Paged(decoder), Paged(decoder)
    assert torch.equal(whole.chunked(TOKENS, 150), parts.chunked(TOKENS, chunk))
    assert whole.kv_of(0, 150) == parts.kv_of(0, 150)


def test_page_size_does_not_change_a_bit(decoder: PackedDecoder) -> None:
    small, large = Paged(decoder, page_size=4), Paged(decoder, page_size=16)
    assert torch.equal(small.chunked(TOKENS, 150), large.chunked(TOKENS, 150))
    assert small.kv_of(0, 150) == large.kv_of(0, 150)


def test_neighbours_do_not_change_a_bit(decoder: PackedDecoder) -> None:
    tokens, others = TOKENS[:40], [prompt(33, seed=2), prompt(5, seed=3)]
    alone, crowd = Paged(decoder), Paged(decoder, sequences=3)
    crowd.step((0, others[0], 0, 20), (2, others[1], 0, 4))
    first = crowd.step((0, others[0], 20, 33), (1, tokens, 0, 39), (2, others[1], 4, 5))[1]
    last = crowd.step((1, tokens, 39, 40), (0, [*others[0], 9], 33, 34))[0]
    assert torch.equal(alone.chunked(tokens, 40), torch.cat([first, last]))
    assert alone.kv_of(0, 40) == crowd.kv_of(1, 40)


def test_threads_do_not_change_a_bit(folder: Path, decoder: PackedDecoder) -> None:
    torch.set_num_threads(2)
    try:
        two = ours(folder, quantization="int8")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(Paged(decoder).chunked(TOKENS, 50), Paged(two).chunked(TOKENS, 50))


def layer_0(paged: Paged) -> torch.Tensor:
    return paged.runner.cache.pages[0]


def test_a_bfloat16_kv_cache_holds_the_nearest_numbers(decoder: PackedDecoder) -> None:
    wide, narrow = Paged(decoder), Paged(decoder, kv_dtype="bfloat16")
    want, got = wide.chunked(TOKENS, 150), narrow.chunked(TOKENS, 150)
    assert torch.equal(layer_0(narrow), layer_0(wide).bfloat16())
    assert 0 < error(got, want) < 0.1  # small differences are codes of 8 bits that fall to the other side


@pytest.mark.parametrize("chunk", [64, 33, 1])
def test_chunks_do_not_change_a_bit_over_bfloat16(decoder: PackedDecoder, chunk: int) -> None:
    whole, parts = Paged(decoder, kv_dtype="bfloat16"), Paged(decoder, page_size=16, kv_dtype="bfloat16")
    assert torch.equal(whole.chunked(TOKENS, 150), parts.chunked(TOKENS, chunk))
    assert whole.kv_of(0, 150) == parts.kv_of(0, 150)


def test_the_float32_decoder_computes_over_bfloat16_too(folder: Path) -> None:
    wide, narrow = Paged(ours(folder)), Paged(ours(folder), kv_dtype="bfloat16")
    want, got = wide.chunked(TOKENS, 150), narrow.chunked(TOKENS, 150)
    assert torch.equal(layer_0(narrow), layer_0(wide).bfloat16())
    assert 0 < error(got, want) < 0.02
    assert torch.equal(Paged(ours(folder), kv_dtype="bfloat16").chunked(TOKENS, 33), got)


def test_each_layer_is_told_when_it_is_stored(decoder: PackedDecoder) -> None:
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


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", Kind.Q4_0),
        ("llama", Kind.Q4_1),
        ("llama-tied", Kind.Q8_0),
        ("qwen2", Kind.Q4_1),
        ("qwen2", Kind.Q8_0),
    ],
)
def test_codes_of_a_gguf_file_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, kind: Kind
) -> None:
    path, sizes = tmp_path / "model.gguf", {**SIZES, "intermediate_size": 224, "max_position_embeddings": 256}
    write_gguf(path, oracle(family, **sizes), "qwen2" if family == "qwen2" else "llama", kind)
    exact = Paged(ours(path)).chunked(TOKENS, 150)
    kept = ours(path, quantization="gguf", activation_bits="8")
    bits = {packed.bits for packed in kept.packed()}
    assert bits == ({8} if kind == Kind.Q8_0 else {8, 4})  # the head has 8 always
    got = Paged(kept).chunked(TOKENS, 150)
    if bits == {8}:
        assert error(got, exact) < 2e-3
        return
    auto, wider = (
        Paged(ours(path, quantization="gguf", activation_bits=rows)).chunked(TOKENS, 150)
        for rows in ("auto", "16")
    )
    assert error(wider, exact) < 1e-2 < error(auto, exact) < error(got, exact) < 0.12
    # 1e-2, because the head's 4 bits were rounded to 8


def test_what_auto_stands_for(tmp_path: Path) -> None:
    path, cpu = tmp_path / "model.gguf", torch.device("cpu")
    write_gguf(path, oracle("llama", **SIZES), "llama", Kind.F32)
    source = resolve(str(path))
    config = load_config(source)
    assert quantization_for("auto", source, config, "auto", cpu) == "gguf"
    assert quantization_for("auto", None, config, "auto", cpu) == "int8"
    assert quantization_for("auto", source, config, "float32", cpu) == "none"
    assert quantization_for("auto", source, config, "auto", torch.device("cuda")) == "none"
    assert quantization_for("int8", source, config, "float32", cpu) == "int8"
    assert quantization_for("auto", source, replace(config, head_dim=24), "auto", cpu) == "none"


@pytest.mark.parametrize(
    ("quantization", "dtype", "said"),
    [
        ("int4", "auto", "use auto, none, int8, gguf"),
        ("gguf", "auto", "this model is none"),
        ("int8", "bfloat16", "with --dtype float32"),
    ],
)
def test_a_quantization_that_cannot_be(folder: Path, quantization: str, dtype: str, said: str) -> None:
    source = resolve(str(folder))
    with pytest.raises(ConfigError, match=said):
        quantization_for(quantization, source, load_config(source), dtype, torch.device("cpu"))
