"""Tensors of a HuggingFace folder: one ``model.safetensors``, or shards named by an index.

Knows the files; knows no architecture. Files are memory-mapped, so a tensor costs memory only where it is
copied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pagewire.errors import ModelError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the checkpoint with its name, mapped, in its own dtype. Raises ModelError."""
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118  a handle, not a dict
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path.name} cannot be read: {error}") from error


def _files(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        return [folder / name for name in _shards(folder / _INDEX)]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    raise ModelError(f"{folder.name} has no {_SINGLE}; weights in other formats (.bin, .pth) are not read")


def _shards(index: Path) -> list[str]:
    """File names in the index. One that is not a bare name could leave the folder, and is refused."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index.name} is not an index of shards") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise ModelError(f"{index.name} names a shard that is not in the folder: {name}")
    return names
