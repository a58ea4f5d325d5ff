"""Where an operation runs: Triton for CUDA tensors, torch for all others.

Triton is imported only where it is of use: on a machine with a GPU, under its interpreter
(``TRITON_INTERPRET=1``), and where kernels are compiled for a GPU that is elsewhere (``PAGEWIRE_TRITON=1``:
``tests/kernels/offline_gpu.py``). Else ``jit`` leaves a kernel as it is written and nothing calls it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch


def _load(name: str) -> Any:
    wanted = "1" in (os.environ.get("TRITON_INTERPRET"), os.environ.get("PAGEWIRE_TRITON"))
    if not wanted and not torch.cuda.is_available():
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


triton = _load("triton")
tl = _load("triton.language")


def jit(function: Callable[..., Any]) -> Any:
    """``triton.jit`` where Triton is loaded."""
    return function if triton is None else triton.jit(function)


def use_triton(x: torch.Tensor) -> bool:
    return x.is_cuda and triton is not None


def power_of_two(n: int) -> int:
    """The smallest power of two >= n: the width of a Triton tile."""
    return 1 << (n - 1).bit_length()
