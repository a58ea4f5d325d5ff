"""A pytest plugin for a run that has only so long: one test of each function first, and an end in time.

    PAGEWIRE_TEST_SECONDS=40 python -m pytest -p benchmarks.gpu.pytest_limit ...

Its last line says how much was done, for ``checks.py`` to read.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import pytest

_deadline = time.monotonic() + float(os.environ.get("PAGEWIRE_TEST_SECONDS", "1e9"))
_counts = Counter[str]()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    seen = Counter[str]()

    def nth(item: Any) -> int:
        name = item.nodeid.split("[")[0]
        seen[name] += 1
        return seen[name]

    items.sort(key=nth)  # stable: within a round in the order of the file
    _counts["collected"] = len(items)


def pytest_runtest_setup(item: Any) -> None:
    if time.monotonic() > _deadline:
        item.session.shouldstop = "out of time"
        pytest.skip("out of time")
    _counts["begun"] += 1


def pytest_unconfigure() -> None:
    print(f"\nPAGEWIRE begun {_counts['begun']} of {_counts['collected']}", flush=True)
