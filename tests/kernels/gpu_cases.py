"""What the files of Triton cases share.

``cases_*.py`` hold Triton kernels against their references. ``test_triton`` runs them under the interpreter;
on a machine with a GPU the same cases run compiled: ``pytest tests/kernels/cases_*.py``.
"""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float32: 1e-5}  # relative, of a whole result


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def wrong(got: torch.Tensor, want: torch.Tensor) -> float:
    """``||got - want|| / ||want||``, the length of ``got`` where nothing but zeros is wanted; NaN if anything
    was left unwritten."""
    got, want = got.double(), want.double()
    return float((got - want).norm() / (want.norm() or 1.0))


def poison(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Memory in which what a kernel does not write shows."""
    if dtype.is_floating_point and dtype.itemsize > 1:
        return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)
    wide = (*shape[:-1], shape[-1] * dtype.itemsize)
    return torch.full(wide, 0x7F, dtype=torch.uint8, device=DEVICE).view(dtype)
