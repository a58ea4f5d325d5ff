"""Packed weights on disk: made once, then mapped by every start, so that processes of a host share them.

A file holds a decoder's arrays as safetensors, codes first, so that all of them are aligned. It is named by
the checkpoint's content and by the form; one that is damaged or does not fit is made anew. It lies in
``folder()``, and goes when no start has used it for a month. Knows arrays by name; knows no layer.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from xxhash import xxh3_128, xxh3_128_hexdigest

from pagewire.errors import ModelError
from pagewire.hub import ModelSource

_log = logging.getLogger("pagewire.weights")
_FORM = 1  # of the arrays; counts up when the kernels want them otherwise
_NAMES = {torch.uint8: "U8", torch.float16: "F16", torch.float32: "F32"}
_ALIGNED = 64
_ABOUT, _DIGEST = "__metadata__", "xxh3_128"  # of the entries and all bytes of the arrays
_UNUSED_S = 30 * 86_400.0


def folder() -> Path | None:
    """``$PAGEWIRE_CACHE/weights``, by default in ~/.cache/pagewire; None if the variable is empty."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    chosen = os.environ.get("PAGEWIRE_CACHE", str(Path(home) / "pagewire"))
    return Path(chosen) / "weights" if chosen else None


def path_for(source: ModelSource, quantization: str) -> Path | None:
    """Where the packed weights of ``source`` are, or would be. Raises ModelError if it cannot be read."""
    where = folder()
    if where is None:
        return None
    facts = json.dumps([_FORM, quantization, source.is_gguf, _contents(source)]).encode()
    return where / f"{xxh3_128_hexdigest(facts)}.safetensors"


def _contents(source: ModelSource) -> list[str]:
    """Digests of all of it: a checkpoint with one changed layer is another one."""
    digests = []
    for path in [source.path] if source.is_gguf else sorted(source.path.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                digests.append(file_digest(file, xxh3_128).hexdigest())
        except OSError as error:
            raise ModelError(f"{path.name} cannot be read: {error.strerror}") from error
    return digests


class Fresh:
    """Zeroed memory for a decoder's arrays, which can be saved when they are filled."""

    def __init__(self) -> None:
        self._arrays: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        assert name not in self._arrays, name
        self._arrays[name] = array = torch.zeros(shape, dtype=dtype)
        return array

    def save(self, path: Path) -> None:
        """In one move: a reader sees all of the file or none of it. Where it cannot be written, says so."""
        arrays = dict(sorted(self._arrays.items(), key=lambda item: _NAMES[item[1].dtype], reverse=True))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _forget_unused(path.parent)
            part = path.with_suffix(f".{secrets.token_hex(8)}.part")  # pids repeat in other containers
            try:
                _write(part, arrays)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the weights are not kept for the next start: %s", error)


class Mapped:
    """The arrays of a file, in memory that processes share.

    Raises OSError and, if the file is damaged or an array is not in it, ValueError.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        with suppress(OSError):
            os.utime(path)
        self._start = 8 + int.from_bytes(self._memory[:8], "little")
        self._entries: Any = json.loads(self._memory[8 : self._start])
        if not isinstance(self._entries, dict) or self._entries.pop(_ABOUT, None) != self._about():
            raise ValueError("its bytes have changed")

    def _about(self) -> dict[str, str]:
        return _about(self._entries, [memoryview(self._memory)[self._start :]])

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        entry = self._entries.get(name)
        if entry is None or (entry["dtype"], entry["shape"]) != (_NAMES[dtype], list(shape)):
            raise ValueError(f"no {name} of shape {list(shape)} is in it")
        first, last = entry["data_offsets"]
        count = (last - first) // dtype.itemsize
        flat = torch.frombuffer(self._memory, dtype=dtype, offset=self._start + first, count=count)
        return flat.view(shape)


def _write(path: Path, arrays: dict[str, Tensor]) -> None:
    with path.open("wb") as file:
        file.write(_header(arrays))
        for array in arrays.values():
            file.write(_bytes(array))
        file.flush()
        os.fsync(file.fileno())


def _bytes(array: Tensor) -> memoryview:
    return array.view(-1).view(torch.uint8).numpy().data


def _header(arrays: dict[str, Tensor]) -> bytes:
    end = 0
    entries: dict[str, Any] = {}
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        entries[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    entries[_ABOUT] = _about(entries, map(_bytes, arrays.values()))
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _about(entries: dict[str, Any], data: Iterable[memoryview]) -> dict[str, str]:
    digest = xxh3_128(json.dumps(entries).encode())
    for part in data:
        digest.update(part)
    return {_DIGEST: digest.hexdigest()}


def _forget_unused(where: Path) -> None:
    for path in where.iterdir():
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - path.stat().st_mtime > _UNUSED_S:
                path.unlink()
