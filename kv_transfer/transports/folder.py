"""Folders for sockets of this process: private, with short paths, and swept up after whoever was killed.

Knows names and process ids; knows no socket.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def private_folder() -> Path:
    """A new one. Those of processes that are gone are removed."""
    _sweep()
    return Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=_base()))


def _base() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())


def _prefix() -> str:
    return f"pagewire-{os.getuid()}-"


def _sweep() -> None:
    for folder in _base().glob(f"{_prefix()}*"):
        pid = folder.name.removeprefix(_prefix()).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
