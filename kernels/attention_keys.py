"""Folding a block of paged keys into the running softmax of some rows: what both attention kernels do.

Online softmax (Milakov and Gimelshein 2018) as in flash attention 2 (Dao 2023): powers of two, with the
softmax scale folded into the exponent. A block that a row may not see folds to exactly nothing, and keys are
folded in blocks at fixed absolute positions, so a row's bits depend on that row and its keys alone. Quantised
pages are widened to the type of q on their way to the matrix units. Knows keys; launches nothing.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch

from kernels.backend import jit, tl, triton

LOG2_E = 1.4426950408889634
NO_SCALES, HEAD_SCALES, TOKEN_SCALES = 0, 1, 2  # SCALES of a kernel


def product_type(dtype: torch.dtype) -> Any:
    """DOT of a kernel, the type of q; but the interpreter would multiply bf16 as integers."""
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        return tl.float32
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}[dtype]


@jit
def slots_of(page_table, start, last, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """[BLOCK_N] int32 slots of the keys from ``start``, a multiple of BLOCK_N; past ``last`` without meaning.

    To be asked for a block ahead: else the loads of keys wait for that of the page number, and the compiler
    spends a stage of its pipeline on it. One page number a block where a page holds whole blocks, one a page
    where few whole pages make a block (scalars: nothing is exchanged between threads), else one a key.
    """
    i = tl.arange(0, BLOCK_N)
    if PAGE % BLOCK_N == 0:
        slots = tl.load(page_table + start // PAGE, mask=start < last, other=0) * PAGE + start % PAGE + i
    elif BLOCK_N % PAGE == 0 and BLOCK_N // PAGE <= 8:
        slots = i % PAGE
        for j in tl.static_range(BLOCK_N // PAGE):
            page = tl.load(page_table + start // PAGE + j, mask=start + j * PAGE < last, other=0)
            slots += tl.where(i // PAGE == j, page * PAGE, 0)
    else:
        key = start + i
        page = tl.load(page_table + key // PAGE, mask=key < last, other=0)
        slots = page * PAGE + key % PAGE
    return slots


@jit
def load_keys(base, at, held, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[BLOCK_N, BLOCK_D] keys or values of one KV head, zeros where ``held`` is false.

    ``at``: where each begins, int64, since a pool is larger than 2^31 numbers.
    """
    d = tl.arange(0, BLOCK_D)
    return tl.load(base + at[:, None] + d[None, :], mask=held[:, None] & (d < D)[None, :], other=0.0)


@jit
def hide(scores, position, key, last, WINDOW: tl.constexpr):
    """-inf for what a row at ``position[BLOCK_M]`` may not see of ``key[BLOCK_N]``, or what is not there."""
    seen = (key[None, :] <= position[:, None]) & (key < last)[None, :]
    if WINDOW > 0:
        seen = seen & (key[None, :] > position[:, None] - WINDOW)
    return tl.where(seen, scores, float("-inf"))


@jit
def soften(scores, best, norm, scale):
    """The running maximum and weight with a block of scores; its weights; what to multiply earlier sums by.

    The maximum is of scaled scores. It starts at -1e30, finite, lest a row without a key yet give inf - inf.
    """
    best_now = tl.maximum(best, tl.max(scores, axis=1) * scale)
    weights = tl.exp2(scores * scale - best_now[:, None])
    faded = tl.exp2(best - best_now)
    return best_now, norm * faded + tl.sum(weights, axis=1), weights, faded


@jit
def add_values(total, faded, weights, v, q, DOT: tl.constexpr):
    """``total`` of earlier blocks, faded, and this one's weights, in the type of q, times its values."""
    rounded = weights.to(q.dtype.element_ty).to(DOT)
    return tl.dot(rounded, v.to(DOT), total * faded[:, None], input_precision="ieee")
