"""Which NIXL the tests run with: the stand-in, whose faults are files in a folder, and where it is installed
the real one.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

STAND_IN = Path(__file__).with_name("nixl_stand_in")
NEEDS_NIXL = pytest.mark.skipif(
    find_spec("nixl") is None, reason="NIXL is not installed: pip install 'pagewire[nixl]'"
)


def real(transports: str = "") -> Any:
    """NIXL, with the ways that its UCX chooses, or only with ``transports``."""
    return pytest.param(transports or "nixl", marks=NEEDS_NIXL)


KINDS = ["stand-in", real()]


def use(kind: str, monkeypatch: pytest.MonkeyPatch, faults: Path) -> None:
    """For this process and its children."""
    if kind == "stand-in":
        path = os.environ.get("PYTHONPATH")
        monkeypatch.syspath_prepend(STAND_IN)
        monkeypatch.setenv("PYTHONPATH", f"{STAND_IN}{os.pathsep + path if path else ''}")
        monkeypatch.setenv("NIXL_STAND_IN", str(faults))
    elif kind != "nixl":
        monkeypatch.setenv("UCX_TLS", kind)
