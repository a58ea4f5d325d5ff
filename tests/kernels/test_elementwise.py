"""Norm, rope and gate against plain references."""

from __future__ import annotations

import pytest
import torch

from kernels.activation import silu_mul
from kernels.norm import rms_norm, rms_norm_reference
from kernels.rope import apply_rope

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DTYPES = list(TOLERANCE)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want.to(got.dtype), rtol=TOLERANCE[got.dtype], atol=TOLERANCE[got.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 576), (7, 3, 64), (1, 1), (2, 9, 100), (0, 8)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[-1]).to(dtype)
    got = rms_norm(x, weight, 1e-6)
    assert got.dtype == dtype
    close(got, rms_norm_reference(x, weight, 1e-6))


def test_rms_norm_sums_half_precision_in_float32() -> None:
    x = torch.full((1, 64), 300.0, dtype=torch.float16)  # its square overflows float16
    close(rms_norm(x, torch.ones(64, dtype=torch.float16), 1e-6), torch.ones(1, 64))


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (i, i + half) as a complex number."""
    half = cos.shape[1]
    pair = torch.complex(x[..., :half].float(), x[..., half : 2 * half].float())
    pair = pair * torch.complex(cos, sin)[:, None]
    return torch.cat((pair.real, pair.imag, x[..., 2 * half :].float()), -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("dim", "rotary"), [(64, 64), (80, 32), (16, 2), (128, 126)])
def test_rope(dim: int, rotary: int, dtype: torch.dtype) -> None:
    q, k = torch.randn(5, 7, dim).to(dtype), torch.randn(5, 2, dim).to(dtype)
    angle = torch.rand(5, rotary // 2) * 6
    for got, x in zip(apply_rope(q, k, angle.cos(), angle.sin()), (q, k), strict=True):
        assert got.dtype == dtype
        close(got, turned(x, angle.cos(), angle.sin()))


def test_rope_reads_slices_of_a_fused_qkv() -> None:
    qkv = torch.randn(5, 4 * 16)
    q, k = qkv[:, :32].view(5, 2, 16), qkv[:, 32:48].view(5, 1, 16)
    angle = torch.rand(5, 8)
    assert torch.equal(
        apply_rope(q, k, angle.cos(), angle.sin())[1],
        apply_rope(q.clone(), k.clone(), angle.cos(), angle.sin())[1],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 2 * 1536), (3, 2), (1, 2 * 333), (0, 8)])
def test_silu_mul(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    gate, up = x.float().chunk(2, 1)
    got = silu_mul(x)
    assert got.dtype == dtype
    close(got, gate / (1 + torch.exp(-gate)) * up)


def test_silu_mul_leaves_its_input() -> None:
    x = torch.randn(3, 8)
    before = x.clone()
    silu_mul(x)
    assert torch.equal(x, before)
