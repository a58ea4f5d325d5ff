"""How each kernel is launched on each kind of GPU, by shape: read from a file, never measured at start-up.

A kernel asks with what its best tile depends on (a head's width, the rows rounded up to a power of two) and
with what it would do by itself; an entry of ``kernels/tuned/<device>.json`` that names that very shape wins.
``python -m benchmarks.gpu --tune`` writes those files. Knows names and numbers; launches nothing.

The file: ``{"device", "triton", "measured", "kernels": {name: [{"shape": {...}, "use": {...}, ...}, ...]}}``.
What an entry says beside ``shape`` and ``use``, such as the time it took, is for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "tuned"

Shape = Mapping[str, int]
Use = Mapping[str, int]
_Key = tuple[str, tuple[tuple[str, int], ...]]

_overrides: dict[str, Use] = {}


def config(kernel: str, shape: Shape, default: Use, device: torch.device) -> Use:
    """The launch parameters of ``kernel`` for ``shape``: from the device's file, or ``default``.

    A file may leave parameters out, and can add none: they are those of ``default``.
    """
    if kernel in _overrides:
        return {**default, **_overrides[kernel]}
    if device.type != "cuda":
        return default
    found = _table(_name(device)).get((kernel, _frozen(shape)))
    return default if found is None else {name: found.get(name, value) for name, value in default.items()}


def bucket(n: int) -> int:
    """``n`` rounded up to a power of two: shapes of one bucket share an entry."""
    return 1 << max(0, n - 1).bit_length()


class override:
    """Within this context ``kernel`` is launched with ``use``: for those who measure and for tests."""

    def __init__(self, kernel: str, use: Use) -> None:
        self._kernel, self._use = kernel, use

    def __enter__(self) -> None:
        assert self._kernel not in _overrides, self._kernel
        _overrides[self._kernel] = self._use

    def __exit__(self, *_: object) -> None:
        del _overrides[self._kernel]


def file_name(device_name: str) -> str:
    """Of the table for GPUs of that name: "NVIDIA H100 80GB HBM3" -> "NVIDIA_H100_80GB_HBM3.json"."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in device_name) + ".json"


@cache
def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


@cache
def _table(device_name: str) -> dict[_Key, Use]:
    path = FOLDER / file_name(device_name)
    return read(path) if path.exists() else {}


def read(path: Path) -> dict[_Key, Use]:
    """The entries of one file, by kernel and shape."""
    kernels = json.loads(path.read_text())["kernels"]
    return {
        (name, _frozen(entry["shape"])): entry["use"]
        for name, entries in kernels.items()
        for entry in entries
    }


def _frozen(shape: Shape) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(shape.items()))
