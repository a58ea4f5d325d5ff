"""A digest of a model's weights files that costs milliseconds, whatever their size.

Knows files; opens no tensor. It is a guard against serving two versions of a model by mistake, not a proof
against forgery. It covers, of each file in order of name:

- its size;
- its first 64 KiB, where safetensors and GGUF name, type and place their tensors;
- 256 samples of 4 KiB spread evenly over it, the last of them at its end.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from pagewire.errors import ModelError
from pagewire.hub import ModelSource

_HEAD, _SAMPLE, _SAMPLES = 65536, 4096, 256


def weights_digest(source: ModelSource) -> bytes:
    """16 bytes. Raises ModelError if a file cannot be read."""
    digest = blake2b(digest_size=16)
    for path in [source.path] if source.is_gguf else sorted(source.path.glob("*.safetensors")):
        try:
            for part in _samples(path):
                digest.update(part)
        except OSError as error:
            raise ModelError(f"{path.name} cannot be read: {error.strerror}") from error
    return digest.digest()


def _samples(path: Path) -> list[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        parts = [size.to_bytes(8, "little"), file.read(_HEAD)]
        for index in range(1, _SAMPLES + 1):
            file.seek(max(0, size - _SAMPLE) * index // _SAMPLES)
            parts.append(file.read(_SAMPLE))
    return parts
