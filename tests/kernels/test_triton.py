"""The Triton kernels, interpreted on the CPU: the interpreter must be asked for before triton is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_agree_with_the_references_under_the_interpreter() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "ignore::DeprecationWarning",
        str(HERE / "triton_cases.py"),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_kernels_import_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None;"
        "from kernels import activation, attention, backend, kv_pages, linear, norm, rope;"
        "assert backend.triton is None"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # else a machine without a GPU would not even try
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
