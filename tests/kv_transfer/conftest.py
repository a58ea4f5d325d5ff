from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where ``shm://*`` puts its sockets: their paths have 100 bytes at most, and pytest's own are long."""
    with tempfile.TemporaryDirectory(prefix="pw-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
