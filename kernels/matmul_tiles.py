"""What the matrix kernels share: which tile a program computes, how a kernel that counts rows is compiled.

All of them compute ``x[T, K] @ weight[N, K].T`` turned round: the weight's rows are the M of the tensor
core's instruction and the rows of x its N. A Hopper warpgroup multiplies 64 rows of M at once and any
multiple of 8 of N, so a decode step's few rows are padded to 16, not to 64. Knows no arithmetic.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernels.backend import jit, tl, triton


def jit_rows(function: Callable[..., Any]) -> Any:
    """``jit`` for a kernel with an argument T: one compilation serves every number of rows."""
    return jit(function, do_not_specialize=["T"])


def operand(dtype: torch.dtype) -> Any:
    """What a product's operands become: themselves, but the interpreter would multiply bf16 as integers."""
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        return tl.float32
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}[dtype]


@jit
def tile_of(program, N, T, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, GROUP: tl.constexpr):
    """The (weight tile, row tile) of a program: GROUP weight tiles meet all rows before the next GROUP does.

    Programs that run at once then share weights and rows in the L2 cache.
    """
    tiles_n, tiles_t = tl.cdiv(N, BLOCK_N), tl.cdiv(T, BLOCK_T)
    group = program // (GROUP * tiles_t)
    first = group * GROUP
    height = tl.minimum(tiles_n - first, GROUP)
    inside = program - first * tiles_t
    return first + inside % height, inside // height


def tiles(n: int, t: int, block_n: int, block_t: int) -> int:
    """How many programs ``tile_of`` spreads the work over."""
    return -(-n // block_n) * -(-t // block_t)
