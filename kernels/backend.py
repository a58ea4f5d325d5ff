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


interpreted = False
"""Tests set it, with ``TRITON_INTERPRET=1``: CPU tensors take the way of CUDA tensors."""

triton = _load("triton")
tl = _load("triton.language")


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``triton.jit``, with its options if any, where Triton is loaded."""
    if triton is None:
        return (lambda plain: plain) if function is None else function
    return triton.jit(function, **options)


def use_triton(x: torch.Tensor) -> bool:
    return triton is not None and (x.is_cuda or interpreted)


def power_of_two(n: int) -> int:
    """The smallest power of two >= n: the width of a Triton tile."""
    return 1 << (n - 1).bit_length()
