"""The header reader against the gguf package's writer, and against damaged files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from pagewire.errors import ModelError
from pagewire.gguf_header import read_header


def write(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.count", 7)
    writer.add_float32("a.share", 0.5)
    writer.add_bool("a.flag", True)
    writer.add_token_list(["<s>", "", "grüße", "日本"])
    writer.add_token_types([3, 1, 1, 1])
    writer.add_tensor("first.weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("second.weight", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "m.gguf")).metadata == {
        "general.architecture": "llama",
        "a.count": 7,
        "a.share": 0.5,
        "a.flag": True,
        "tokenizer.ggml.tokens": ["<s>", "", "grüße", "日本"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
    }


def test_tensors_lie_where_the_header_says(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    info = read_header(path).tensors["second.weight"]
    data = np.frombuffer(path.read_bytes()[info.offset : info.offset + 10], np.float16)
    assert (info.shape, data.tolist()) == ((5,), [0, 1, 2, 3, 4])


def test_shape_is_row_major(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "m.gguf")).tensors["first.weight"].shape == (3, 4)


def test_a_header_cut_anywhere_is_a_model_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf").read_bytes()
    first = min(t.offset for t in read_header(tmp_path / "m.gguf").tensors.values())
    cut = tmp_path / "cut.gguf"
    for length in range(first):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            read_header(cut)


@pytest.mark.parametrize(
    ("at", "value"), [(0, b"GGML"), (4, b"\x01\0\0\0"), (16, b"\xff" * 8), (24, b"\xff" * 8)]
)
def test_a_damaged_header_is_a_model_error(tmp_path: Path, at: int, value: bytes) -> None:
    path = write(tmp_path / "m.gguf")
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(ModelError):
        read_header(path)
