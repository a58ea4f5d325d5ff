"""RMS norm, rotary embedding, SwiGLU."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import DEVICE, close

from kernels.activation import silu_mul_torch, silu_mul_triton
from kernels.norm import rms_norm_reference, rms_norm_triton
from kernels.rope import rotate_torch, rotate_triton


@pytest.mark.parametrize("shape", [(5, 576), (3, 2, 64), (1, 1), (0, 8)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape, device=DEVICE), torch.randn(shape[-1], device=DEVICE)
    close(rms_norm_triton(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))


@pytest.mark.parametrize(("dim", "rotary"), [(64, 64), (80, 32), (16, 2)])
def test_rope(dim: int, rotary: int) -> None:
    fused = torch.randn(5, 4 * dim, device=DEVICE)
    x, angle = fused[:, dim:].view(5, 3, dim), torch.rand(5, rotary // 2, device=DEVICE)
    close(rotate_triton(x, angle.cos(), angle.sin()), rotate_torch(x, angle.cos(), angle.sin()))


@pytest.mark.parametrize("shape", [(3, 2 * 1536), (2, 2), (1, 2 * 333)])
def test_silu_mul(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, device=DEVICE)
    close(silu_mul_triton(x), silu_mul_torch(x))
