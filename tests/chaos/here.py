"""Importing this lets the packages of the repository come before the test folders of the same names."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]

for _folder in (_TESTS / "kv_transfer", _TESTS.parent):
    if str(_folder) in sys.path:
        sys.path.remove(str(_folder))
    sys.path.insert(0, str(_folder))
