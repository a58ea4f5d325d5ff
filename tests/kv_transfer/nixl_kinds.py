"""Which NIXL the tests run with: the stand-in, whose faults are files in a folder, and where it is installed
the real one.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

STAND_IN = Path(__file__).with_name("nixl_stand_in")
REAL = pytest.param(
    "nixl",
    marks=pytest.mark.skipif(
        find_spec("nixl") is None, reason="NIXL is not installed: pip install 'pagewire[nixl]'"
    ),
)
KINDS = ["stand-in", REAL]


def use(kind: str, monkeypatch: pytest.MonkeyPatch, faults: Path) -> None:
    """For this process and its children."""
    if kind == "stand-in":
        path = os.environ.get("PYTHONPATH")
        monkeypatch.syspath_prepend(STAND_IN)
        monkeypatch.setenv("PYTHONPATH", f"{STAND_IN}{os.pathsep + path if path else ''}")
        monkeypatch.setenv("NIXL_STAND_IN", str(faults))
