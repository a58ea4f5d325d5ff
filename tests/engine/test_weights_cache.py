"""Packed weights that a later start maps: the same numbers, and made anew where the file is of no use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import write_gguf
from paged_world import Paged
from safetensors.torch import load_file
from tiny_models import oracle, ours, prompt

from kernels import native_library as native
from pagewire.engine.packed_decoder import PackedDecoder
from pagewire.engine.weights import cache

pytestmark = pytest.mark.skipif(not native.available(), reason="no C++ compiler when this was installed")

SIZES = {"hidden_size": 96, "head_dim": 16, "intermediate_size": 224, "max_position_embeddings": 256}
TOKENS = prompt(40)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files are kept."""
    monkeypatch.setenv("PAGEWIRE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture(params=["llama-biases", "qwen3", "gguf"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Its path, and the form of its weights."""
    if request.param == "gguf":
        write_gguf(tmp_path / "model.gguf", oracle("llama", **SIZES), "llama", Kind.Q4_1)
        return tmp_path / "model.gguf", "gguf"
    oracle(request.param, **SIZES).save_pretrained(tmp_path / "model")
    return tmp_path / "model", "int8"


def logits(decoder: object) -> torch.Tensor:
    assert isinstance(decoder, PackedDecoder)
    return Paged(decoder).chunked(TOKENS, 40)


def mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_a_later_start_maps_what_the_first_has_packed(model: tuple[Path, str], kept: Path) -> None:
    path, form = model
    first = ours(path, quantization=form)
    (file,) = kept.iterdir()
    assert not mapped(file)
    done: list[tuple[int, int]] = []
    second = ours(path, quantization=form, progress=lambda *at: done.append(at))
    assert mapped(file)
    assert done == [(file.stat().st_size, file.stat().st_size)]
    assert torch.equal(logits(first), logits(second))
    assert list(kept.iterdir()) == [file]


def test_the_file_is_safetensors(model: tuple[Path, str], kept: Path) -> None:
    path, form = model
    decoder = ours(path, quantization=form)
    (file,) = kept.iterdir()
    arrays = load_file(file)
    assert isinstance(decoder, PackedDecoder)
    for packed in decoder.packed():
        for array in (packed.codes, packed.scales, packed.offsets, packed.bias):
            assert array is None or any(
                array.dtype == other.dtype and torch.equal(array, other) for other in arrays.values()
            )


@pytest.mark.parametrize("place", ["length", "header", "codes", "end", "cut", "empty"])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, kept: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    oracle("qwen3", **SIZES).save_pretrained(tmp_path / "model")
    want = logits(ours(tmp_path / "model", quantization="int8"))
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    data = bytearray(whole)
    at = {"length": 1, "header": 30, "codes": len(data) // 2, "end": len(data) - 1}.get(place)
    if at is None:
        data = data[: len(data) - 100] if place == "cut" else bytearray()
    else:
        data[at] ^= 1
    file.unlink()  # its bytes are mapped by no one, yet
    file.write_bytes(data)
    assert torch.equal(logits(ours(tmp_path / "model", quantization="int8")), want)
    assert "is made anew" in caplog.text
    assert file.read_bytes() == whole


def test_each_model_and_each_form_has_a_file(tmp_path: Path, kept: Path) -> None:
    write_gguf(tmp_path / "model.gguf", oracle("llama", **SIZES), "llama", Kind.Q4_1)
    write_gguf(tmp_path / "other.gguf", oracle("llama", **SIZES), "llama", Kind.Q4_0)
    for name, form in (("model", "gguf"), ("model", "int8"), ("other", "gguf"), ("model", "gguf")):
        ours(tmp_path / f"{name}.gguf", quantization=form)
    assert len(list(kept.iterdir())) == 3


def test_a_checkpoint_with_one_changed_number_is_another_one(tmp_path: Path, kept: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, oracle("llama", **SIZES), "llama", Kind.Q4_1)
    before = logits(ours(path, quantization="gguf"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x11
    path.write_bytes(data)
    assert not torch.equal(logits(ours(path, quantization="gguf")), before)
    assert len(list(kept.iterdir())) == 2


def test_a_file_whose_arrays_do_not_fit_is_made_anew(
    tmp_path: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("model", "other"):
        write_gguf(tmp_path / f"{name}.gguf", oracle("llama", **SIZES), "llama", Kind.Q4_1)
    ours(tmp_path / "model.gguf", quantization="gguf")
    ours(tmp_path / "model.gguf", quantization="int8")
    one, two = kept.iterdir()
    for file, data in ((one, two.read_bytes()), (two, one.read_bytes())):
        file.unlink()
        file.write_bytes(data)
    want = logits(ours(tmp_path / "model.gguf", quantization="gguf"))
    assert "of shape" in caplog.text
    assert torch.equal(logits(ours(tmp_path / "model.gguf", quantization="gguf")), want)


def test_where_nothing_can_be_kept_the_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    oracle("qwen3", **SIZES).save_pretrained(tmp_path / "model")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PAGEWIRE_CACHE", str(tmp_path / "file"))
    ours(tmp_path / "model", quantization="int8")
    assert "not kept for the next start" in caplog.text
    monkeypatch.setenv("PAGEWIRE_CACHE", "")
    assert cache.folder() is None
    ours(tmp_path / "model", quantization="int8")


def test_what_no_start_has_used_for_a_month_goes(tmp_path: Path, kept: Path) -> None:
    write_gguf(tmp_path / "model.gguf", oracle("llama", **SIZES), "llama", Kind.Q4_1)
    ours(tmp_path / "model.gguf", quantization="gguf")
    (used,) = kept.iterdir()
    month_ago = time.time() - 31 * 86_400
    os.utime(used, (month_ago, month_ago))
    ours(tmp_path / "model.gguf", quantization="gguf")  # used now
    unused = kept / "unused.safetensors"
    unused.touch()
    os.utime(unused, (month_ago, month_ago))
    ours(tmp_path / "model.gguf", quantization="int8")
    assert used.exists()
    assert not unused.exists()


def test_two_first_starts_at_once_do_not_disturb_each_other(tmp_path: Path, kept: Path) -> None:
    write_gguf(tmp_path / "model.gguf", oracle("llama", **SIZES), "llama", Kind.Q4_1)
    words = (sys.executable, "-c", LOAD, str(tmp_path / "model.gguf"))
    children = [subprocess.Popen(words, cwd=Path(__file__).parent) for _ in range(2)]
    assert [child.wait(120) for child in children] == [0, 0]
    (file,) = kept.iterdir()
    want = logits(ours(tmp_path / "model.gguf", quantization="gguf"))
    file.unlink()
    assert torch.equal(logits(ours(tmp_path / "model.gguf", quantization="gguf")), want)


def test_starts_with_one_pid_do_not_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in two containers with a volume between them, which count their processes each for itself."""
    parts: list[Path] = []
    write = cache._write

    def watched(part: Path, arrays: dict[str, torch.Tensor]) -> None:
        parts.append(part)
        write(part, arrays)

    monkeypatch.setattr(cache, "_write", watched)
    for _ in range(2):
        fresh = cache.Fresh()
        fresh.take("a", (4,), torch.float32)
        fresh.save(tmp_path / "weights.safetensors")
    assert len(set(parts)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


LOAD = """
import sys
from tiny_models import ours
ours(sys.argv[1], quantization="gguf")
"""
