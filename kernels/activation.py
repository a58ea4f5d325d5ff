"""The gate of a SwiGLU feed-forward (Shazeer 2020): silu(gate) * up.

Elementwise: a row's bits depend on that row alone. Knows one fused tensor; knows no weight.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels import tuned
from kernels.backend import jit, power_of_two, tl, use_triton

MANY = 128  # rows from which on each program has more to do


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """``gate_up[T, 2I]``, gate first, to ``silu(gate) * up`` ``[T, I]``."""
    assert gate_up.dim() == 2, gate_up.shape
    assert gate_up.shape[1] % 2 == 0, gate_up.shape
    return silu_mul_triton(gate_up) if use_triton(gate_up) else silu_mul_torch(gate_up)


def silu_mul_torch(gate_up: torch.Tensor) -> torch.Tensor:
    """Reference and CPU path: reads 3 TI, writes 2 TI numbers. Fused: reads 2 TI, writes TI."""
    gate, up = gate_up.chunk(2, dim=1)
    return F.silu(gate).mul_(up)


@jit
def _silu_mul_kernel(gate_up, out, row_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.cdiv(WIDTH, BLOCK)  # programs of a row
    row = (tl.program_id(0) // columns).to(tl.int64)
    i = tl.program_id(0) % columns * BLOCK + tl.arange(0, BLOCK)
    inside = i < WIDTH
    source = gate_up + row * row_stride
    gate = tl.load(source + i, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + WIDTH + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + i, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


def silu_mul_triton(gate_up: torch.Tensor) -> torch.Tensor:
    """One program a (row, block of columns); its width decides no bit of the result."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    assert gate_up.stride(1) == 1, gate_up.stride()
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    many = int(rows >= MANY)
    use = tuned.config("silu_mul", {"I": width, "many": many}, default_use(width, many), gate_up.device)
    if rows:
        grid = (rows * -(-width // use["BLOCK"]),)
        _silu_mul_kernel[grid](gate_up, out, gate_up.stride(0), WIDTH=width, **use)
    return out


def default_use(width: int, many: int) -> dict[str, int]:
    """Of many rows 16 numbers a thread, four loads of 16 bytes; of few 8, so that more SMs have a part."""
    return {"BLOCK": min(2048 if many else 512, power_of_two(width)), "num_warps": 4 if many else 2}
