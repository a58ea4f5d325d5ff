"""The Triton kernels on a machine without a GPU: interpreted, and compiled for one that is elsewhere.

Both in processes of their own: how Triton behaves is settled when it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in HERE.glob("cases_*.py"))
COMPILED = [name for name in CASES if "def launches(" in (HERE / f"{name}.py").read_text()]

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@pytest.mark.parametrize("cases", CASES)
def test_kernels_agree_with_the_references_under_the_interpreter(cases: str) -> None:
    run("-m", "pytest", "-q", "-W", "ignore", str(HERE / f"{cases}.py"), TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.parametrize("cases", COMPILED)
def test_kernels_compile_for_a_hopper_gpu(cases: str, tmp_path: Path) -> None:
    program = str(HERE / "offline_gpu.py")
    run(program, cases, PAGEWIRE_TRITON="1", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


@needs_triton
def test_steps_of_real_models_run_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    cases = str(HERE / "ghost_engine.py")
    environment = {"PAGEWIRE_TRITON": "1", "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run("-m", "pytest", "-q", "-W", "ignore", cases, **environment)


def test_kernels_import_without_triton() -> None:
    run(
        "-c",
        "import importlib, pathlib, sys; sys.modules['triton'] = None;"
        "[importlib.import_module(f'kernels.{p.stem}') for p in pathlib.Path('kernels').glob('[a-z]*.py')];"
        "from kernels import backend; assert backend.triton is None",
        TRITON_INTERPRET="1",  # else a machine without a GPU would not even try
    )
