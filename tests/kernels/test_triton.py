"""The Triton kernels on a machine without a GPU: interpreted, compiled for one that is elsewhere, and run on
one that is not there.

All in processes of their own: how Triton behaves is settled when it is imported. Two run side by side.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in HERE.glob("cases_*.py"))
COMPILED = [name for name in CASES if "def launches(" in (HERE / f"{name}.py").read_text()]
PYTEST = ("-m", "pytest", "-q", "-W", "ignore")

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton here")
Check = Callable[[str], None]


def run(*command: str, **environment: str) -> str:
    """What went wrong; empty if nothing did."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done.stdout + done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Check]:
    """Waits for one of the runs, which were all given out at once."""
    cache = str(tmp_path_factory.mktemp("triton"))
    compiled = {"PAGEWIRE_TRITON": "1", "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": cache}
    found: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(2) as pool:
        for name in CASES:
            found[f"interpret {name}"] = pool.submit(
                run, *PYTEST, str(HERE / f"{name}.py"), TRITON_INTERPRET="1"
            )
        for name in COMPILED:
            found[f"compile {name}"] = pool.submit(run, str(HERE / "offline_gpu.py"), name, **compiled)
        found["ghost"] = pool.submit(run, *PYTEST, str(HERE / "ghost_engine.py"), **compiled)

        def wait(name: str) -> None:
            wrong = found[name].result()
            assert not wrong, wrong

        yield wait
        pool.shutdown(cancel_futures=True)


@needs_triton
@pytest.mark.parametrize("cases", CASES)
def test_kernels_agree_with_the_references_under_the_interpreter(check: Check, cases: str) -> None:
    check(f"interpret {cases}")


@needs_triton
@pytest.mark.parametrize("cases", COMPILED)
def test_kernels_compile_for_a_hopper_gpu(check: Check, cases: str) -> None:
    check(f"compile {cases}")


@needs_triton
def test_steps_of_real_models_run_on_a_gpu_that_is_not_there(check: Check) -> None:
    check("ghost")


def test_kernels_import_without_triton() -> None:
    wrong = run(
        "-c",
        "import importlib, pathlib, sys; sys.modules['triton'] = None;"
        "[importlib.import_module(f'kernels.{p.stem}') for p in pathlib.Path('kernels').glob('[a-z]*.py')];"
        "from kernels import backend; assert backend.triton is None",
        TRITON_INTERPRET="1",  # else a machine without a GPU would not even try
    )
    assert not wrong, wrong
