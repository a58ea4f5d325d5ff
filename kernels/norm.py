"""Root-mean-square norm (Zhang and Sennrich 2019) over the last dimension.

Each row is normed alone and summed in fp32: its bits do not depend on the rows beside it.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels.backend import jit, power_of_two, tl, use_triton


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x[..., H]`` over its root mean square, times ``weight[H]``; the result has x's dtype."""
    assert weight.shape == x.shape[-1:], (weight.shape, x.shape)
    if use_triton(x):
        return rms_norm_triton(x, weight, eps)
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """For R rows reads 5 RH + 3 R + H numbers and writes 3 RH + 2 R. Fused: reads RH + H, writes RH."""
    wide = x.float()
    square = wide * wide  # reads 2 RH, writes RH
    scale = torch.rsqrt(square.mean(-1, keepdim=True) + eps)  # reads RH + R, writes 2 R
    return (wide * scale * weight.float()).to(x.dtype)  # reads 2 RH + R + H, writes 2 RH


@jit
def _rms_norm_kernel(x, weight, out, eps, H, BLOCK_H: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * H
    h = tl.arange(0, BLOCK_H)
    inside = h < H
    row = tl.load(x + at + h, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row, axis=0) / H + eps)
    row = row * scale * tl.load(weight + h, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at + h, row.to(out.dtype.element_ty), mask=inside)


def rms_norm_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """One program a row; the row stays in registers between its sum and its scaling."""
    hidden = x.shape[-1]
    rows = x.reshape(-1, hidden).contiguous()
    assert weight.stride(0) == 1, weight.stride()
    out = torch.empty_like(rows)
    if rows.shape[0]:
        _rms_norm_kernel[(rows.shape[0],)](rows, weight, out, eps, hidden, BLOCK_H=power_of_two(hidden))
    return out.view(x.shape)
