"""Few rows by a weight of 4 bits: bound by the weight's bytes, so many programs and K split among them.

The tensor cores multiply codes less zeros, which are exact; a group's scale multiplies its sum in fp32. With
minima they multiply code - 8, and minimum + 8 scales multiplies the sum of x over the group. How K is split
depends on N and K alone; the pieces are joined first to last by a second kernel.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch

from kernels import tuned
from kernels.backend import jit, tl
from kernels.matmul_tiles import jit_rows
from kernels.matmul_w4_unpack import bits_of, minimum_of, scale_of, unpack_pairs, unpacking
from kernels.w4_layouts import W4Weight

MOST_ROWS = 64
STEP = 256  # columns of K that a program fetches at once
PROGRAMS = 528  # to aim at: four an SM of an H100, each a warpgroup, which registers and 3 stages leave room
# for. A stage of one is 8 KiB of codes and, of 16 rows, 8 of x: 64 KiB of codes are on their way to an SM
JOINED = 256  # columns of one program that joins


@jit_rows
def _few_kernel(
    x,
    codes,
    groups,
    bias,
    out,
    T,
    N,
    K,
    steps,
    chunk,
    x_stride,
    out_stride,
    BIAS: tl.constexpr,
    MINIMA: tl.constexpr,
    FP16: tl.constexpr,
    LESS: tl.constexpr,
    OPERAND: tl.constexpr,
    WORDS: tl.constexpr,
    SHIFTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Steps [chunk * split, + chunk) of K, BLOCKS blocks each, into ``out[split, T, N]``.

    A group spans SHIFTS of the four shifts of a block; more than four: all of K.
    """
    split = tl.program_id(1)
    n, t = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_T)
    k, c = tl.arange(0, 2 * WORDS), tl.arange(0, WORDS)
    rows = x + t.to(tl.int64)[:, None] * x_stride + k[None, :]
    total = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    part = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    x_sum = tl.zeros([BLOCK_T], tl.float32)
    group = tl.load(groups + n, mask=n < N, other=0)
    for step in range(split * chunk, tl.minimum(split * chunk + chunk, steps)):
        for inside in tl.static_range(BLOCKS):
            block = step * BLOCKS + inside
            source = codes + (block * N + n)[:, None] * WORDS + c[None, :]  # fewer than 2^31 words
            words = tl.load(source, mask=(n < N)[:, None], other=0)
            for p in tl.static_range(4):
                if p % SHIFTS == 0 and SHIFTS <= 4:
                    group = tl.load(groups + (block * 4 + p) // SHIFTS * N + n, mask=n < N, other=0)
                first = (block * 4 + p) * 2 * WORDS
                r = tl.load(rows + first, mask=(t < T)[:, None] & (k < K - first)[None, :], other=0.0)
                bits = bits_of(group, MINIMA, FP16)
                w = unpack_pairs(words, 4 * p, bits, LESS, FP16, OPERAND, BLOCK_N, WORDS)
                part = tl.dot(w, tl.trans(r.to(OPERAND)), part)
                if MINIMA:
                    x_sum += tl.sum(r.to(tl.float32), axis=1)
                if (p + 1) % SHIFTS == 0:
                    total = _fold(total, part, x_sum, group, MINIMA)
                    part = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
                    x_sum = tl.zeros([BLOCK_T], tl.float32)
    if SHIFTS > 4:
        total = _fold(total, part, x_sum, group, MINIMA)
    if BIAS:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    to = out + (split * T + t).to(tl.int64)[:, None] * out_stride + n[None, :]
    tl.store(to, tl.trans(total.to(out.dtype.element_ty)), mask=(t < T)[:, None] & (n < N)[None, :])


@jit
def _fold(total, part, x_sum, group, MINIMA: tl.constexpr):
    """A group's sums, scaled, onto those before. With minima the sums are those of code - 8."""
    scale = scale_of(group)
    total += part * scale[:, None]
    if MINIMA:
        total += (minimum_of(group) + 8.0 * scale)[:, None] * x_sum[None, :]
    return total


@jit_rows
def _join_kernel(parts, bias, out, T, N, splits, out_stride, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    """``parts[splits, T, N]`` fp32, first to last, and then the bias."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(parts + row * N + n, mask=n < N, other=0.0)
    for split in range(1, splits):
        total += tl.load(parts + (split * T + row) * N + n, mask=n < N, other=0.0)
    if BIAS:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + n, total.to(out.dtype.element_ty), mask=n < N)


def launch_few(x: torch.Tensor, weight: W4Weight, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """One program a (BLOCK_N weight rows, piece of K); after several pieces one a (row, 256 columns)."""
    (t, k), (blocks, n, words) = x.shape, weight.codes.shape
    assert t <= MOST_ROWS, t
    use = tuned.config("matmul_w4_few", few_shape(t, n, k, weight.group), default(t), x.device)
    a_step = STEP // (8 * words)
    chunk, splits = split_of(n, blocks // a_step)
    parts = out if splits == 1 else torch.empty(splits, t, n, dtype=torch.float32, device=x.device)
    _few_kernel[(-(-n // use["BLOCK_N"]), splits)](
        x,
        weight.codes,
        weight.groups,
        weight.groups if bias is None else bias,
        parts,
        t,
        n,
        k,
        blocks // a_step,
        chunk,
        x.stride(0),
        parts.stride(-2),
        BIAS=bias is not None and splits == 1,
        BLOCKS=a_step,
        BLOCK_T=max(16, tuned.bucket(t)),
        **unpacking(weight, x.dtype),
        **use,
    )
    if splits > 1:
        held, grid = parts if bias is None else bias, (t, -(-n // JOINED))
        _join_kernel[grid](parts, held, out, t, n, splits, out.stride(0), BIAS=bias is not None, BLOCK=JOINED)


def default(t: int) -> tuned.Use:
    """Beyond 16 rows x, which every program reads, outweighs the codes: more weight rows share it."""
    if t <= 16:
        return {"BLOCK_N": 64, "num_warps": 4, "num_stages": 3}
    return {"BLOCK_N": 128, "num_warps": 8, "num_stages": 3 if t <= 32 else 2}


def few_shape(t: int, n: int, k: int, group: int) -> tuned.Shape:
    """Rows of one tile share an entry."""
    return {
        "t": max(16, tuned.bucket(t)),
        "n": tuned.bucket(n),
        "k": tuned.bucket(k),
        "group": min(group, 256),
    }


def split_of(n: int, steps: int) -> tuple[int, int]:
    """(steps a piece, pieces): about PROGRAMS programs of 64 weight rows, at least two steps a piece."""
    wanted = max(1, min(PROGRAMS // -(-n // 64), steps // 2))
    chunk = -(-steps // wanted)
    return chunk, -(-steps // chunk)
