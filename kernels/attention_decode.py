"""Decode attention: one row of each sequence over its paged KV, split at fixed positions (flash-decoding, Dao
et al. 2023).

A row's keys are cut every SPLIT tokens, whatever the batch, into the items that ``attention_items`` lists. A
fixed number of programs takes them in turn, and a second kernel folds a row's parts. So nothing on the host
depends on the contexts, the launches may be captured in a graph, and a row's bits depend neither on its
neighbours nor on the number of programs.

Reads 2 c Hkv D numbers of KV for a context c, and writes and reads Hq D + 2 Hq floats an item where a row has
more than one. Knows rows and pages; knows no model.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch

from kernels import tuned
from kernels.attention_items import DecodePlan
from kernels.attention_keys import (
    HEAD_SCALES,
    LOG2_E,
    NO_SCALES,
    TOKEN_SCALES,
    add_values,
    hide,
    load_keys,
    product_type,
    slots_of,
    soften,
)
from kernels.attention_meta import KVScales
from kernels.backend import jit, power_of_two, tl

JOINED = 16  # parts of a row folded at once


def default_use(dim: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> tuned.Use:
    """By bytes in flight: a block of 64 keys and values of 128 bf16 is 32 KiB.

    Two of them are buffered in 70 KiB of shared memory, three programs fit an SM, and 96 to 192 KiB are on
    their way to it, where 3.35 TB/s at a microsecond of latency need 25 KiB. A split of 512 keys is eight
    blocks, and its parts are 1/64 of its KV. Wider heads, float32 and codes have smaller blocks, for
    registers; codes have more of them in flight.
    """
    codes, wide = kv_dtype.itemsize == 1, dim > 128 or dtype.itemsize > 2
    return {
        "SPLIT": 512,
        "BLOCK_M": 16,  # rows of a tile at least; 64 would bring in the warpgroup instructions
        "BLOCK_N": 32 if wide or codes else 64,
        "num_warps": 4,
        "num_stages": 2 if dtype.itemsize > 2 else 4 if codes else 3,
        "programs": 4 if codes else 3,  # of an SM
    }


def use_of(
    heads_per_kv: int, dim: int, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device
) -> tuned.Use:
    """How rows of such heads are launched. SPLIT and BLOCK_N order a row's sums: by model, never by step."""
    shape = {"dim": dim, "group": heads_per_kv, "bytes": kv_dtype.itemsize}
    return tuned.config("attention_decode", shape, default_use(dim, dtype, kv_dtype), device)


@jit(do_not_specialize=["batch", "table_stride"])
def _decode_kernel(
    q,
    keys,
    values,
    key_scales,
    value_scales,
    out,
    parts,
    sums,
    context_lens,
    page_tables,
    rows,
    starts,
    owners,
    scale,
    batch,
    q_row_stride,
    q_head_stride,
    out_row_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    SCALES: tl.constexpr,
    DOT: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Every program takes its turn at the (item, KV head) pairs, the heads of an item side by side.

    A row's only item goes to ``out``, others unnormalised to parts[item, Hq, D], their maximum and weight to
    sums.
    """
    m, i, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    used = (m < GROUP)[:, None] & (d < D)[None, :]
    for unit in range(tl.program_id(0), tl.load(starts + batch) * KV_HEADS, tl.num_programs(0)):
        item, kv_head = unit // KV_HEADS, unit % KV_HEADS
        owner = tl.load(owners + item)
        row, context = tl.load(rows + owner).to(tl.int64), tl.load(context_lens + owner)
        start, stop = tl.load(starts + owner), tl.load(starts + owner + 1)
        split = item - start
        if WINDOW > 0:
            split += tl.maximum(context - WINDOW, 0) // SPLIT
        first, last = split * SPLIT, tl.minimum(split * SPLIT + SPLIT, context)
        if WINDOW > 0:
            first = tl.maximum(first, tl.maximum(context - WINDOW, 0) // BLOCK_N * BLOCK_N)
        head = kv_head * GROUP + m
        source = q + row * q_row_stride + head[:, None] * q_head_stride + d[None, :]
        x = tl.load(source, mask=used, other=0.0).to(DOT)
        exponent, widen = scale, 1.0
        if SCALES == 1:
            exponent = scale * tl.load(key_scales + kv_head)
            widen = tl.load(value_scales + kv_head)
        position = tl.zeros([BLOCK_M], tl.int32) + (context - 1)
        best = tl.full(
            [BLOCK_M], -1e30, tl.float32
        )  # finite: a row without a key yet must not give inf - inf
        norm = tl.zeros([BLOCK_M], tl.float32)
        total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        table = page_tables + owner.to(tl.int64) * table_stride
        slots = slots_of(table, first, last, PAGE, BLOCK_N)
        for at in range(first, last, BLOCK_N):
            key = at + i
            at_key = slots.to(tl.int64) * (KV_HEADS * D)
            k = load_keys(keys + kv_head * D, at_key, key < last, D, BLOCK_D)
            scores = tl.dot(x, tl.trans(k.to(DOT)), input_precision="ieee")
            if SCALES == 2:
                scores *= tl.load(key_scales + slots * KV_HEADS + kv_head, mask=key < last, other=0.0)[
                    None, :
                ]
            scores = hide(scores, position, key, last, WINDOW)
            best, norm, weights, faded = soften(scores, best, norm, exponent)
            if SCALES == 2:
                weights *= tl.load(value_scales + slots * KV_HEADS + kv_head, mask=key < last, other=0.0)[
                    None, :
                ]
            v = load_keys(values + kv_head * D, at_key, key < last, D, BLOCK_D)
            total = add_values(total, faded, weights, v, q, DOT)
            slots = slots_of(table, at + BLOCK_N, last, PAGE, BLOCK_N)
        if stop - start == 1:
            target = out + row * out_row_stride + head[:, None] * D + d[None, :]
            tl.store(target, (total / norm[:, None] * widen).to(out.dtype.element_ty), mask=used)
        else:
            to = (tl.zeros([BLOCK_M], tl.int64) + item) * (KV_HEADS * GROUP) + head
            tl.store(parts + to[:, None] * D + d[None, :], total * widen, mask=used)
            tl.store(sums + to * 2, best, mask=m < GROUP)
            tl.store(sums + to * 2 + 1, norm, mask=m < GROUP)


@jit
def _join_kernel(
    parts,
    sums,
    rows,
    starts,
    out,
    out_row_stride,
    D: tl.constexpr,
    JOINED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Fold the parts of one (row, head), first to last in groups of JOINED; zeros where there is none."""
    mine, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    start, stop = tl.load(starts + mine), tl.load(starts + mine + 1)
    if stop - start != 1:
        j, d = tl.arange(0, JOINED), tl.arange(0, BLOCK_D)
        best, norm, total = -1e30, 0.0, tl.zeros([BLOCK_D], tl.float32)
        for first in range(start, stop, JOINED):
            item = first + j
            held = item < stop
            at = item.to(tl.int64) * heads + head
            theirs = tl.load(sums + at * 2, mask=held, other=-1e30)
            weight = tl.load(sums + at * 2 + 1, mask=held, other=0.0)
            part = tl.load(
                parts + at[:, None] * D + d[None, :], mask=held[:, None] & (d < D)[None, :], other=0.0
            )
            best_now = tl.maximum(best, tl.max(theirs, axis=0))
            faded, share = tl.exp2(best - best_now), tl.exp2(theirs - best_now)
            norm = norm * faded + tl.sum(weight * share, axis=0)
            total = total * faded + tl.sum(part * share[:, None], axis=0)
            best = best_now
        row = tl.load(rows + mine).to(tl.int64)
        result = total / tl.where(norm > 0, norm, 1.0)
        tl.store(out + row * out_row_stride + head * D + d, result.to(out.dtype.element_ty), mask=d < D)


def attend_singles(
    q: torch.Tensor,
    kv_layer: torch.Tensor,
    plan: DecodePlan,
    out: torch.Tensor,
    scale: float,
    scales: KVScales | None = None,
) -> None:
    """Rows ``plan.rows`` of ``q[T, Hq, D]`` over ``kv_layer[2, pages, page_size, Hkv, D]`` into ``out``."""
    page_size, kv_heads, dim = kv_layer.shape[2:]
    heads, batch, use = q.shape[1], plan.rows.shape[0], plan.use
    assert page_size == plan.page_size, (kv_layer.shape, plan.page_size)
    assert plan.parts.shape[1:] == (heads, dim), (plan.parts.shape, q.shape)
    assert q.stride(2) == 1, q.stride()
    assert out.stride()[1:] == (dim, 1), out.stride()
    most = plan.owners.shape[0] * kv_heads
    key_scales, value_scales = (kv_layer, kv_layer) if scales is None else scales.values
    _decode_kernel[(min(most, use["programs"] * _processors(q.device)),)](
        q,
        kv_layer[0],
        kv_layer[1],
        key_scales,
        value_scales,
        out,
        plan.parts,
        plan.sums,
        plan.context_lens,
        plan.page_tables,
        plan.rows,
        plan.starts,
        plan.owners,
        scale * LOG2_E,
        batch,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        plan.page_tables.stride(0),
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        D=dim,
        PAGE=page_size,
        WINDOW=plan.window or 0,
        SCALES=NO_SCALES if scales is None else TOKEN_SCALES if scales.per_token else HEAD_SCALES,
        DOT=product_type(q.dtype),
        SPLIT=use["SPLIT"],
        BLOCK_M=max(use["BLOCK_M"], power_of_two(heads // kv_heads)),
        BLOCK_N=use["BLOCK_N"],
        BLOCK_D=max(16, power_of_two(dim)),
        num_warps=use["num_warps"],
        num_stages=use["num_stages"],
    )
    _join_kernel[(batch, heads)](
        plan.parts,
        plan.sums,
        plan.rows,
        plan.starts,
        out,
        out.stride(0),
        D=dim,
        JOINED=JOINED,
        BLOCK_D=power_of_two(dim),
        num_warps=2,
    )


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
