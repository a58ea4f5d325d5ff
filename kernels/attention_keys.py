"""Folding a block of paged keys into the running softmax of some rows: what both attention kernels do.

Online softmax (Milakov and Gimelshein 2018) as in flash attention 2 (Dao 2023): powers of two, with the
softmax scale folded into the exponent. A block that a row may not see folds to exactly nothing, and keys are
folded in blocks at fixed absolute positions, so a row's bits depend on that row and its keys alone. Quantised
pages are widened to the type of q on their way to the matrix units. Knows keys; launches nothing.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from kernels.backend import jit, tl

LOG2_E = 1.4426950408889634
NO_SCALES, HEAD_SCALES, TOKEN_SCALES = 0, 1, 2  # SCALES of a kernel


@jit
def slots_of(page_table, start, last, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """[BLOCK_N] int32 slots of the keys from ``start``, a multiple of BLOCK_N; past ``last`` without meaning.

    One page number a block where a page holds whole blocks; one a page where few whole pages make a block,
    so that it is a scalar and no exchange between threads; else one a key.
    """
    i = tl.arange(0, BLOCK_N)
    if PAGE % BLOCK_N == 0:
        slots = tl.load(page_table + start // PAGE) * PAGE + start % PAGE + i
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
def fold_block(
    q,
    position,
    best,
    norm,
    total,
    keys,
    values,
    key_scales,
    value_scales,
    page_table,
    scale,
    start,
    last,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    SCALES: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Keys [start, min(start + BLOCK_N, last)) into the maximum, weight and weighted values of q's rows.

    ``MASKED``: some row may not see some of them, or they are not all there.
    """
    i, d = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    key = start + i
    slots = slots_of(page_table, start, last, PAGE, BLOCK_N)
    at = slots.to(tl.int64)[:, None] * (KV_HEADS * D) + d[None, :]  # a pool is larger than 2^31 numbers
    held = d[None, :] < D
    if MASKED:
        held = (key < last)[:, None] & held
    if MASKED or D != BLOCK_D:
        k = tl.load(keys + at, mask=held, other=0.0)
        v = tl.load(values + at, mask=held, other=0.0)
    else:
        k, v = tl.load(keys + at), tl.load(values + at)
    scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
    if SCALES == 2:
        scores *= tl.load(key_scales + slots * KV_HEADS, mask=key < last, other=0.0)[None, :]
    if MASKED:
        seen = (key[None, :] <= position[:, None]) & (key < last)[None, :]
        if WINDOW > 0:
            seen = seen & (key[None, :] > position[:, None] - WINDOW)
        scores = tl.where(seen, scores, float("-inf"))
    best_now = tl.maximum(best, tl.max(scores, axis=1) * scale)
    weights = tl.exp2(scores * scale - best_now[:, None])
    faded = tl.exp2(best - best_now)
    norm = norm * faded + tl.sum(weights, axis=1)
    if SCALES == 2:
        weights *= tl.load(value_scales + slots * KV_HEADS, mask=key < last, other=0.0)[None, :]
    total = total * faded[:, None]
    total = tl.dot(weights.to(q.dtype), v.to(q.dtype), total, input_precision="ieee")
    return best_now, norm, total
