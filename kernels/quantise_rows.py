"""Each row of x as 8-bit codes and one scale, found as it comes: its largest number takes the largest code.

A row's codes depend on that row alone. Knows int8 and fp8 (e4m3); knows no weight.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch

from kernels.backend import jit, power_of_two, tl

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def quantise_rows(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """``x[T, K]`` -> codes ``[T, K]`` int8 or float8_e4m3fn, scales ``[T]`` fp32, ``x ~ codes * scales``.

    Reads T K numbers, writes T K bytes.
    """
    codes = torch.empty(x.shape, dtype=dtype, device=x.device)
    scales = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    if x.shape[0]:
        launch(x, codes, scales)
    return codes, scales


def quantise_rows_reference(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads T K numbers twice and writes wide copies in between."""
    scales = (x.float().abs().amax(1) / LARGEST[dtype]).clamp_min(torch.finfo(torch.float32).tiny)
    wide = x.float() / scales[:, None]
    return (wide.round() if dtype == torch.int8 else wide).to(dtype), scales


@jit
def _quantise_kernel(
    x, codes, scales, x_stride, K, LARGEST: tl.constexpr, WHOLE: tl.constexpr, BLOCK_K: tl.constexpr
):
    row, k = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_K)
    wide = tl.load(x + row * x_stride + k, mask=k < K, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(wide), axis=0) / LARGEST, 1.1754943508222875e-38)  # a row of zeros
    wide = tl.clamp(wide / scale, -LARGEST, LARGEST)
    if WHOLE:  # 1.5 * 2^23: what is added to it loses its fraction, halves to even
        wide = (wide + 12582912.0) - 12582912.0
    tl.store(codes + row * K + k, wide.to(codes.dtype.element_ty), mask=k < K)
    tl.store(scales + row, scale)


def launch(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
    """One program a row, which stays in registers between its maximum and its codes."""
    assert x.stride(1) == 1, x.stride()
    assert codes.shape == x.shape, (codes.shape, x.shape)
    assert codes.is_contiguous()
    block = power_of_two(x.shape[1])
    _quantise_kernel[(x.shape[0],)](
        x,
        codes,
        scales,
        x.stride(0),
        x.shape[1],
        LARGEST=LARGEST[codes.dtype],
        WHOLE=codes.dtype == torch.int8,
        BLOCK_K=block,
        num_warps=min(16, max(1, block // 1024)),
    )
