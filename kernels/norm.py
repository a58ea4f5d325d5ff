"""Root-mean-square norm (Zhang and Sennrich 2019) over the last dimension, alone or behind a residual sum.

Each row is normed alone and summed in fp32, in an order that its width alone decides: its bits do not depend
on the rows beside it nor on how many they are.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels import tuned
from kernels.backend import jit, power_of_two, tl, use_triton

TILE = 4096  # numbers a program holds of each tensor: 16 a thread


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x[..., H]`` over its root mean square, times ``weight[H]``; the result has x's dtype."""
    assert weight.shape == x.shape[-1:], (weight.shape, x.shape)
    if use_triton(x):
        return rms_norm_triton(x, weight, eps)
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(rms_norm(residual + x), residual + x)``, the sum rounded to the dtype before it is normed."""
    assert x.shape == residual.shape, (x.shape, residual.shape)
    assert x.dtype == residual.dtype, (x.dtype, residual.dtype)
    assert weight.shape == x.shape[-1:], (weight.shape, x.shape)
    if use_triton(x):
        return add_rms_norm_triton(x, residual, weight, eps)
    summed = residual + x
    return rms_norm(summed, weight, eps), summed


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """For R rows reads 5 RH + 3 R + H numbers and writes 3 RH + 2 R. Fused: reads RH + H, writes RH.

    With the sum before it, fused: reads 2 RH + H, writes 2 RH; about 5 operations a number.
    """
    wide = x.float()
    square = wide * wide  # reads 2 RH, writes RH
    scale = torch.rsqrt(square.mean(-1, keepdim=True) + eps)  # reads RH + R, writes 2 R
    return (wide * scale * weight.float()).to(x.dtype)  # reads 2 RH + R + H, writes 2 RH


@jit(do_not_specialize=["T"])
def _rms_norm_kernel(
    x, residual, weight, summed, out, eps, T, H: tl.constexpr,
    ADD: tl.constexpr, ROWS: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    h = tl.arange(0, BLOCK_H)[None, :]
    at, inside = row * H + h, (row < T) & (h < H)
    wide = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        both = wide + tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        narrow = both.to(summed.dtype.element_ty)
        tl.store(summed + at, narrow, mask=inside)
        wide = narrow.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / H + eps)[:, None]
    w = tl.load(weight + h, mask=h < H, other=0.0).to(tl.float32)
    tl.store(out + at, (wide * scale * w).to(out.dtype.element_ty), mask=inside)


def rms_norm_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Rows stay in registers between their sum and their scaling."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    out = torch.empty_like(rows)
    _launch(rows, rows, weight, rows, out, eps, add=False)
    return out.view(x.shape)


def add_rms_norm_triton(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``rms_norm_triton``, with the sum on the way."""
    rows, others = (each.reshape(-1, each.shape[-1]).contiguous() for each in (x, residual))
    summed, out = torch.empty_like(rows), torch.empty_like(rows)
    _launch(rows, others, weight, summed, out, eps, add=True)
    return out.view(x.shape), summed.view(x.shape)


def _launch(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, summed: torch.Tensor, out: torch.Tensor,
    eps: float, add: bool,
) -> None:  # fmt: skip
    """``x``, ``residual``, ``summed`` and ``out`` are contiguous [T, H]."""
    assert weight.stride(0) == 1, weight.stride()
    rows, hidden = x.shape
    block = power_of_two(hidden)
    # Nothing here may depend on the number of rows: it sets the order of the sums.
    use = tuned.config("rms_norm", {"H": hidden}, default_use(hidden), x.device)
    if rows:
        _rms_norm_kernel[(-(-rows // use["ROWS"]),)](
            x, residual, weight, summed, out, eps, rows, H=hidden, ADD=add, BLOCK_H=block, **use
        )


def default_use(hidden: int) -> dict[str, int]:
    """A tile of 4096 numbers and 8 warps: two loads of 16 bytes in flight a thread and tensor."""
    tile = max(TILE, power_of_two(hidden))
    return {"ROWS": tile // power_of_two(hidden), "num_warps": min(16, tile // 512)}
