"""What stands in the tests for memory of a GPU that another process can map: a file that both map, or, of one
process with itself, memory of its own GPU.
"""

from __future__ import annotations

import mmap
import os
import secrets
import tempfile
from pathlib import Path
from typing import ClassVar

import torch

from pagewire.engine.staging_share import HEAD_BYTES, Shared
from pagewire.errors import RemoteProtocolError


class FileShare:
    """Between all who have ``folder``; ``refuses``: neither lends nor maps."""

    def __init__(self, folder: Path, refuses: str = "") -> None:
        self.folder, self.refuses = folder, refuses
        self.lent: list[torch.Tensor] = []
        self.mapped: list[Path] = []

    def lend(self, size: int) -> Shared:
        if self.refuses == "lend":
            raise RemoteProtocolError("there is nothing to be lent")
        fd, name = tempfile.mkstemp(dir=self.folder)
        os.ftruncate(fd, HEAD_BYTES + size)
        self.lent.append(_memory(fd))
        return Shared(self.lent[-1][HEAD_BYTES:], name.encode())

    def map(self, offer: bytes) -> torch.Tensor:
        path = Path(offer.decode())
        if self.refuses == "map" or path.parent != self.folder:
            raise RemoteProtocolError("it is out of reach")
        self.mapped.append(path)
        return _memory(os.open(path, os.O_RDWR))


class OwnShare(FileShare):
    """Of one process with itself. ``folder`` is a name only."""

    _lent: ClassVar[dict[bytes, torch.Tensor]] = {}

    def lend(self, size: int) -> Shared:
        if self.refuses == "lend":
            raise RemoteProtocolError("there is nothing to be lent")
        offer = secrets.token_bytes(16)
        self.lent.append(torch.zeros(HEAD_BYTES + size, dtype=torch.uint8, device="cuda"))
        torch.cuda.synchronize()
        self._lent[offer] = self.lent[-1]
        return Shared(self.lent[-1][HEAD_BYTES:], offer)

    def map(self, offer: bytes) -> torch.Tensor:
        if self.refuses == "map":
            raise RemoteProtocolError("it is out of reach")
        self.mapped.append(Path(offer.hex()))
        return self._lent[offer]


def _memory(fd: int) -> torch.Tensor:
    memory = mmap.mmap(fd, 0)
    os.close(fd)
    return torch.frombuffer(memory, dtype=torch.uint8)
