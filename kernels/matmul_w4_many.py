"""Any number of rows by a weight of 4 bits, each row alone: the weight made bf16 or fp16 in registers.

A weight is rounded to x's dtype once, in the registers that wgmma takes its first operand from; then all is
as in ``kernels.matmul``: one chain of sums over K, first to last, by one instruction. Past a few rows the
tensor cores set the pace, and a weight made a number serves all rows of its tile.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch

from kernels import tuned
from kernels.backend import tl
from kernels.matmul_tiles import jit_rows, tile_of, tiles
from kernels.matmul_w4_unpack import bits_of, minimum_of, scale_of, unpack_pairs, unpacking
from kernels.w4_layouts import W4Weight


@jit_rows
def _many_kernel(
    x,
    codes,
    groups,
    bias,
    out,
    T,
    N,
    K,
    blocks,
    x_stride,
    out_stride,
    BIAS: tl.constexpr,
    MINIMA: tl.constexpr,
    FP16: tl.constexpr,
    LESS: tl.constexpr,
    OPERAND: tl.constexpr,
    WORDS: tl.constexpr,
    SHIFTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    GROUP: tl.constexpr,
):
    tile_n, tile_t = tile_of(tl.program_id(0), N, T, BLOCK_N, BLOCK_T, GROUP)
    n, t = tile_n * BLOCK_N + tl.arange(0, BLOCK_N), tile_t * BLOCK_T + tl.arange(0, BLOCK_T)
    k, c = tl.arange(0, 2 * WORDS), tl.arange(0, WORDS)
    rows = x + t.to(tl.int64)[:, None] * x_stride + k[None, :]
    total = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    for step in range(blocks * 4):  # a block's words come four times, thrice from a cache
        source = codes + (step // 4 * N + n)[:, None] * WORDS + c[None, :]  # fewer than 2^31 words
        words = tl.load(source, mask=(n < N)[:, None], other=0)
        first = step * 2 * WORDS
        r = tl.load(rows + first, mask=(t < T)[:, None] & (k < K - first)[None, :], other=0.0)
        which = step // SHIFTS if SHIFTS <= 4 else 0
        group = tl.load(groups + which * N + n, mask=n < N, other=0)
        bits, scale = bits_of(group, MINIMA, FP16), scale_of(group)
        w = unpack_pairs(words, step % 4 * 4, bits, LESS, FP16, OPERAND, BLOCK_N, WORDS)
        if MINIMA:  # scale * code + minimum = scale * (code - 8) + shift, where bf16 loses less
            shift = minimum_of(group) + 8.0 * scale
            w = tl.fma(w, scale.to(OPERAND)[:, None], shift.to(OPERAND)[:, None])
        else:
            w = w * scale.to(OPERAND)[:, None]
        total = tl.dot(w, tl.trans(r.to(OPERAND)), total)
    if BIAS:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    to = out + t.to(tl.int64)[:, None] * out_stride + n[None, :]
    tl.store(to, tl.trans(total.to(out.dtype.element_ty)), mask=(t < T)[:, None] & (n < N)[None, :])


def launch_many(x: torch.Tensor, weight: W4Weight, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """One program a tile of ``[BLOCK_N weight rows, BLOCK_T rows]``."""
    (t, k), (blocks, n, _) = x.shape, weight.codes.shape
    use = tuned.config("matmul_w4_many", many_shape(t, n, k, weight.group), default(t), x.device)
    assert use["BLOCK_N"] % 64 == 0, use  # wgmma, whatever T: see kernels.matmul
    assert use["num_warps"] in (4, 8), use
    _many_kernel[(tiles(n, t, use["BLOCK_N"], use["BLOCK_T"]),)](
        x,
        weight.codes,
        weight.groups,
        weight.groups if bias is None else bias,
        out,
        t,
        n,
        k,
        blocks,
        x.stride(0),
        out.stride(0),
        BIAS=bias is not None,
        **unpacking(weight, x.dtype),
        enable_fp_fusion=False,  # which the compiler might do in one tile and not in another
        **use,
    )


def many_shape(t: int, n: int, k: int, group: int) -> tuned.Shape:
    return {"t": tuned.bucket(t), "n": tuned.bucket(n), "k": tuned.bucket(k), "group": min(group, 256)}


def default(t: int) -> tuned.Use:
    """128 x 256 where there are rows for it: what a weight costs to unpack is shared by 256 rows."""
    if t <= 64:
        block_t = max(16, tuned.bucket(t))
        return {"BLOCK_N": 64, "BLOCK_T": block_t, "GROUP": 8, "num_warps": 4, "num_stages": 5}
    if t <= 256:
        return {"BLOCK_N": 64, "BLOCK_T": 128, "GROUP": 8, "num_warps": 4, "num_stages": 4}
    return {"BLOCK_N": 128, "BLOCK_T": 256, "GROUP": 8, "num_warps": 8, "num_stages": 4}
