"""Paged attention in Triton: flash attention 2 (Dao 2023) for chunks, flash-decoding for single rows.

Keys are folded in blocks at fixed absolute positions with an online softmax, and a decode row's keys are
split at fixed positions too, so that neither the batch nor its longest context changes a row's bits. A
block that a row may not see folds to exactly nothing. Knows pages and rows; knows no model.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.attention_meta import AttentionMeta
from kernels.backend import jit, power_of_two, tl

BLOCK_M = 64  # (token, head) rows of a chunk's tile; a token takes as many as a KV head has query heads
BLOCK_N = 64  # keys folded at once
SPLIT = 512  # keys of one program of a decode row


@dataclass(slots=True)
class Plan:
    """The step on the device, for one number of query heads a KV head."""

    page_tables: torch.Tensor  # [S, P] int64
    tiles: torch.Tensor  # [N, 4] int32: sequence, first row, rows, position of the first row
    singles: torch.Tensor  # [R, 3] int32: sequence, row, position
    splits: int  # of the longest context among the singles


def attend(
    q: torch.Tensor, kv_layer: torch.Tensor, meta: AttentionMeta, scale: float, window: int | None
) -> torch.Tensor:
    """``q[T, Hq, D]``, ``kv_layer[2, pages, page_size, Hkv, D]`` -> ``[T, Hq, D]``; sums in fp32."""
    assert kv_layer[0].is_contiguous(), kv_layer.stride()
    assert q.stride(2) == 1, q.stride()
    assert q.dtype == kv_layer.dtype, (q.dtype, kv_layer.dtype)
    heads_per_kv = q.shape[1] // kv_layer.shape[3]
    plan = meta.once(heads_per_kv, lambda: make_plan(meta, heads_per_kv, q.device))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if plan.tiles.shape[0]:
        _attend_chunks(q, kv_layer, plan, out, scale, window or 0)
    if plan.singles.shape[0]:
        _attend_singles(q, kv_layer, plan, out, scale, window or 0)
    return out


def make_plan(meta: AttentionMeta, heads_per_kv: int, device: torch.device) -> Plan:
    assert heads_per_kv <= BLOCK_M, heads_per_kv
    tokens = BLOCK_M // heads_per_kv
    tiles, singles, longest = [], [], 0
    for s, context in enumerate(meta.context_lens):
        start, stop = meta.query_starts[s : s + 2]
        if stop - start == 1:
            singles.append((s, start, context - 1))
            longest = max(longest, context)
            continue
        for row in range(start, stop, tokens):
            tiles.append((s, row, min(tokens, stop - row), context - stop + row))
    return Plan(
        meta.page_tables.to(device).contiguous(),
        torch.tensor(tiles, dtype=torch.int32).view(-1, 4).to(device),
        torch.tensor(singles, dtype=torch.int32).view(-1, 3).to(device),
        -(-longest // SPLIT),
    )


@jit
def _fold_keys(
    q,
    position,
    best,
    norm,
    total,
    keys,
    values,
    page_table,
    first,
    last,
    page_size,
    slot_stride,
    D,
    WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Fold the keys at [first, last) into the running maximum, weight and weighted values of q's rows."""
    d = tl.arange(0, BLOCK_D)
    for start in range(first, last, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        inside = key < last
        page = tl.load(page_table + key // page_size, mask=inside, other=0)
        at = (page * page_size + key % page_size) * slot_stride  # int64: a pool is larger than 2^31 numbers
        held = inside[:, None] & (d < D)[None, :]
        k = tl.load(keys + at[:, None] + d[None, :], mask=held, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        seen = (key[None, :] <= position[:, None]) & inside[None, :]
        if WINDOW > 0:
            seen = seen & (key[None, :] > position[:, None] - WINDOW)
        scores = tl.where(seen, scores, float("-inf"))
        best_now = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp(scores - best_now[:, None])
        faded = tl.exp(best - best_now)
        v = tl.load(values + at[:, None] + d[None, :], mask=held, other=0.0)
        norm = norm * faded + tl.sum(weights, axis=1)
        total = total * faded[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = best_now
    return best, norm, total


@jit
def _chunk_kernel(
    q,
    keys,
    values,
    out,
    tiles,
    page_tables,
    scale,
    q_row_stride,
    q_head_stride,
    out_row_stride,
    slot_stride,
    table_stride,
    page_size,
    D,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tile = tiles + tl.program_id(0) * 4
    kv_head = tl.program_id(1)
    sequence, rows, origin = tl.load(tile).to(tl.int64), tl.load(tile + 2), tl.load(tile + 3)
    m, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    token, head = m // GROUP, kv_head * GROUP + m % GROUP
    row = tl.load(tile + 1).to(tl.int64) + token
    used = (token < rows)[:, None] & (d < D)[None, :]
    position = origin + token
    source = q + row[:, None] * q_row_stride + head[:, None] * q_head_stride + d[None, :]
    x = tl.load(source, mask=used, other=0.0)
    x = (x.to(tl.float32) * scale).to(x.dtype)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(origin - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
    best = tl.full([BLOCK_M], -1e30, tl.float32)  # finite: a row without a key yet must not give inf - inf
    norm = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    best, norm, total = _fold_keys(
        x,
        position,
        best,
        norm,
        total,
        keys + kv_head * D,
        values + kv_head * D,
        page_tables + sequence * table_stride,
        first,
        origin + rows,
        page_size,
        slot_stride,
        D,
        WINDOW,
        BLOCK_N,
        BLOCK_D,
    )
    total = total / norm[:, None]
    target = out + row[:, None] * out_row_stride + head[:, None] * D + d[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=used)


@jit
def _single_kernel(
    q,
    keys,
    values,
    parts,
    sums,
    singles,
    page_tables,
    scale,
    q_row_stride,
    q_head_stride,
    slot_stride,
    table_stride,
    page_size,
    D,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One split of a row's keys: weighted values to parts[R, Hq, splits, D], maximum and weight to sums."""
    single = singles + tl.program_id(0) * 3
    kv_head, split = tl.program_id(1), tl.program_id(2)
    sequence, row, position = (
        tl.load(single).to(tl.int64),
        tl.load(single + 1).to(tl.int64),
        tl.load(single + 2),
    )
    m, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    used = (m < GROUP)[:, None] & (d < D)[None, :]
    head = kv_head * GROUP + m
    x = tl.load(q + row * q_row_stride + head[:, None] * q_head_stride + d[None, :], mask=used, other=0.0)
    x = (x.to(tl.float32) * scale).to(x.dtype)
    first, last = split * SPLIT, tl.minimum(split * SPLIT + SPLIT, position + 1)
    if WINDOW > 0:
        first = tl.maximum(first, tl.maximum(position - WINDOW + 1, 0) // BLOCK_N * BLOCK_N)
    best = tl.full([BLOCK_M], -1e30, tl.float32)
    norm = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    best, norm, total = _fold_keys(  # nothing to fold where first >= last: such a split weighs zero
        x,
        position + tl.zeros([BLOCK_M], tl.int32),
        best,
        norm,
        total,
        keys + kv_head * D,
        values + kv_head * D,
        page_tables + sequence * table_stride,
        first,
        last,
        page_size,
        slot_stride,
        D,
        WINDOW,
        BLOCK_N,
        BLOCK_D,
    )
    heads = tl.num_programs(1) * GROUP
    to = (tl.program_id(0).to(tl.int64) * heads + head) * tl.num_programs(2) + split
    tl.store(parts + to[:, None] * D + d[None, :], total, mask=used)
    tl.store(sums + to * 2, best, mask=m < GROUP)
    tl.store(sums + to * 2 + 1, norm, mask=m < GROUP)


@jit
def _join_kernel(parts, sums, singles, out, splits, out_row_stride, D, BLOCK_D: tl.constexpr):
    """Join the splits of one (row, head), first to last."""
    head, d = tl.program_id(1), tl.arange(0, BLOCK_D)
    at = (tl.program_id(0).to(tl.int64) * tl.num_programs(1) + head) * splits
    best, norm, total = -1e30, 0.0, tl.zeros([BLOCK_D], tl.float32)
    for split in range(splits):
        theirs = tl.load(sums + (at + split) * 2)
        best_now = tl.maximum(best, theirs)
        faded, weight = tl.exp(best - best_now), tl.exp(theirs - best_now)
        norm = norm * faded + tl.load(sums + (at + split) * 2 + 1) * weight
        total = total * faded + tl.load(parts + (at + split) * D + d, mask=d < D, other=0.0) * weight
        best = best_now
    row = tl.load(singles + tl.program_id(0) * 3 + 1).to(tl.int64)
    tl.store(out + row * out_row_stride + head * D + d, (total / norm).to(out.dtype.element_ty), mask=d < D)


def _attend_chunks(
    q: torch.Tensor, kv_layer: torch.Tensor, plan: Plan, out: torch.Tensor, scale: float, window: int
) -> None:
    """One program a (tile, KV head): it reads its keys and values once for all query heads of the group."""
    page_size, kv_heads, dim = kv_layer.shape[2:]
    _chunk_kernel[(plan.tiles.shape[0], kv_heads)](
        q,
        kv_layer[0],
        kv_layer[1],
        out,
        plan.tiles,
        plan.page_tables,
        scale,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        kv_heads * dim,
        plan.page_tables.stride(0),
        page_size,
        dim,
        GROUP=q.shape[1] // kv_heads,
        WINDOW=window,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        BLOCK_D=max(16, power_of_two(dim)),
    )


def _attend_singles(
    q: torch.Tensor, kv_layer: torch.Tensor, plan: Plan, out: torch.Tensor, scale: float, window: int
) -> None:
    """One program a (row, KV head, split), then one a (row, query head) that joins the splits."""
    page_size, kv_heads, dim = kv_layer.shape[2:]
    rows, heads, wide = plan.singles.shape[0], q.shape[1], power_of_two(dim)
    parts = torch.empty(rows, heads, plan.splits, dim, dtype=torch.float32, device=q.device)
    sums = torch.empty(rows, heads, plan.splits, 2, dtype=torch.float32, device=q.device)
    _single_kernel[(rows, kv_heads, plan.splits)](
        q,
        kv_layer[0],
        kv_layer[1],
        parts,
        sums,
        plan.singles,
        plan.page_tables,
        scale,
        q.stride(0),
        q.stride(1),
        kv_heads * dim,
        plan.page_tables.stride(0),
        page_size,
        dim,
        GROUP=heads // kv_heads,
        WINDOW=window,
        SPLIT=SPLIT,
        BLOCK_M=max(16, power_of_two(heads // kv_heads)),
        BLOCK_N=BLOCK_N,
        BLOCK_D=max(16, wide),
    )
    _join_kernel[(rows, heads)](parts, sums, plan.singles, out, plan.splits, out.stride(0), dim, BLOCK_D=wide)
