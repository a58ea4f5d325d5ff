"""Prefill attention: chunks of prompts over paged KV (flash attention 2, Dao 2023, GQA packed into a tile).

A tile is BLOCK_M (token, query head) rows of one KV head: it reads each key once for all heads of the group,
and spans few positions, so that few blocks of keys at its diagonal need a mask. Blocks lie at fixed absolute
positions and a masked one folds to exactly nothing: a row's bits depend neither on where the prompt was cut
nor on the batch. Tiles with the most keys start first, so that none is left alone at the end.

For a context c and n new tokens: 4 D Hq operations a (row, key) pair; 2 c Hkv D numbers of KV are read once a
tile, from L2 where tiles of one head run side by side. Knows rows and pages; knows no model.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch

from kernels import tuned
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
from kernels.attention_meta import AttentionMeta, KVScales
from kernels.backend import jit, power_of_two, tl


def default_use(dim: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> tuned.Use:
    """By what ptxas says of registers: 128 rows feed both warpgroups of 8 warps, with 255 registers a thread.

    A thread holds BLOCK_D / 2 sums and BLOCK_N / 2 scores, and as many weights; widening codes takes more.
    float32 is not for the matrix units, and is small.
    """
    codes = kv_dtype.itemsize == 1
    if dtype.itemsize > 2:
        use = {"BLOCK_M": 32, "BLOCK_N": 32 if dim <= 128 else 16, "num_stages": 2}
    elif dim <= 128:
        use = {"BLOCK_M": 128, "BLOCK_N": 32 if codes and dim > 64 else 64, "num_stages": 3}
    else:
        use = {"BLOCK_M": 64 if codes else 128, "BLOCK_N": 32, "num_stages": 2 if codes else 3}
    return {**use, "num_warps": 8, "maxnreg": 0}


def use_of(dim: int, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device) -> tuned.Use:
    """BLOCK_N orders a row's sums, so this may depend on the model but not on the step."""
    shape = {"dim": dim, "bytes": kv_dtype.itemsize}
    return tuned.config("attention_prefill", shape, default_use(dim, dtype, kv_dtype), device)


def plan_tiles(meta: AttentionMeta, sequences: list[int], tokens: int) -> torch.Tensor:
    """[N, 4] int32 (sequence, first row, rows, position of the first row), most keys first, on the host."""
    tiles = []
    for s in sequences:
        start, stop = meta.query_starts[s : s + 2]
        origin = meta.context_lens[s] - stop
        tiles += [(s, row, min(tokens, stop - row), origin + row) for row in range(start, stop, tokens)]
    tiles.sort(key=lambda tile: -tile[3])
    return torch.tensor(tiles, dtype=torch.int32).view(-1, 4)


def tiles_on_device(
    query_starts: torch.Tensor, context_lens: torch.Tensor, rows: int, tokens: int
) -> torch.Tensor:
    """As ``plan_tiles`` for ``query_starts[S + 1]``, ``context_lens[S]`` int32, whose sum of rows is at most
    ``rows``: made on the device, as many as there can be; those that are too many have 0 rows.
    """
    counts = query_starts.diff()
    ends = ((counts + (tokens - 1)) // tokens).cumsum(0)
    most = rows // tokens + context_lens.shape[0]
    # From the last tile backwards: the later of a prompt have more keys.
    tile = ends[-1] - 1 - torch.arange(most, device=ends.device)
    s = torch.searchsorted(ends, tile, right=True).clamp_(max=context_lens.shape[0] - 1)
    start, count = query_starts[s], counts[s]
    first = (tile - (ends[s] - (count + (tokens - 1)) // tokens)) * tokens  # in its own chunk
    used = (count - first).clamp(0, tokens) * (tile >= 0)
    return torch.stack((s, start + first, used, context_lens[s] - count + first), dim=1).to(torch.int32)


def tiles_of_singles(context_lens: torch.Tensor) -> torch.Tensor:
    """The tiles of one row each that end ``context_lens[B]`` int32, made on the device."""
    row = torch.arange(context_lens.shape[0], dtype=torch.int32, device=context_lens.device)
    return torch.stack((row, row, torch.ones_like(row), context_lens - 1), dim=1)


@jit(do_not_specialize=["table_stride"])
def _prefill_kernel(
    q,
    keys,
    values,
    key_scales,
    value_scales,
    out,
    tiles,
    page_tables,
    scale,
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tile, kv_head = tiles + tl.program_id(0) * 4, tl.program_id(1)
    sequence, rows, origin = tl.load(tile).to(tl.int64), tl.load(tile + 2), tl.load(tile + 3)
    m, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    token, head = m // GROUP, kv_head * GROUP + m % GROUP
    row = tl.load(tile + 1).to(tl.int64) + token
    used = (token < rows)[:, None] & (d < D)[None, :]
    source = q + row[:, None] * q_row_stride + head[:, None] * q_head_stride + d[None, :]
    x = tl.load(source, mask=used, other=0.0).to(DOT)
    exponent, widen = scale, 1.0
    if SCALES == 1:
        exponent = scale * tl.load(key_scales + kv_head)
        widen = tl.load(value_scales + kv_head)
    position, last = origin + token, origin + rows
    # Blocks in [whole, open_) are seen by all rows; those before lie on the window's edge, those after on
    # the diagonal.
    first, whole, open_ = 0, 0, (origin + 1) // BLOCK_N * BLOCK_N
    if WINDOW > 0:
        first = tl.maximum(origin - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
        whole = tl.maximum(last - WINDOW, 0)
    table = page_tables + sequence * table_stride
    keys, values = keys + kv_head * D, values + kv_head * D
    key_scales, value_scales = key_scales + kv_head, value_scales + kv_head
    i = tl.arange(0, BLOCK_N)
    best = tl.full([BLOCK_M], -1e30, tl.float32)
    norm = tl.zeros([BLOCK_M], tl.float32)
    faded = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    slots = slots_of(table, first, last, PAGE, BLOCK_N)
    # The weights of a block meet its values one block later: that product runs while the next softmax does.
    # What is carried from a block to the next must be computed in it: the compiler does not see a name that
    # is given a value from before the loop, and pipelines no loop that hands a carried value on as it is.
    before = tl.zeros([BLOCK_N], tl.int64)
    for at in range(first, last, BLOCK_N):
        key = at + i
        at_key = slots.to(tl.int64) * (KV_HEADS * D)
        k = load_keys(keys, at_key, key < last, D, BLOCK_D)
        scores = tl.dot(x, tl.trans(k.to(DOT)), input_precision="ieee")
        v = load_keys(values, before, i < at - first, D, BLOCK_D)
        total = add_values(total, faded, weights, v, q, DOT)
        if SCALES == 2:
            scores *= tl.load(key_scales + slots * KV_HEADS, mask=key < last, other=0.0)[None, :]
        if (at >= open_) | (at < whole):
            scores = hide(scores, position, key, last, WINDOW)
        best, norm, weights, faded = soften(scores, best, norm, exponent)
        if SCALES == 2:
            weights *= tl.load(value_scales + slots * KV_HEADS, mask=key < last, other=0.0)[None, :]
        before = at_key
        slots = slots_of(table, at + BLOCK_N, last, PAGE, BLOCK_N)
    end = tl.maximum(last - 1, 0) // BLOCK_N * BLOCK_N
    before = slots_of(table, end, last, PAGE, BLOCK_N).to(tl.int64) * (KV_HEADS * D)  # not held all the while
    v = load_keys(values, before, end + i < last, D, BLOCK_D)
    total = add_values(total, faded, weights, v, q, DOT)
    total = total / tl.where(norm > 0, norm, 1.0)[:, None] * widen  # norm is 0 where there is no key at all
    target = out + row[:, None] * out_row_stride + head[:, None] * D + d[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=used)


def attend_tiles(
    q: torch.Tensor,
    kv_layer: torch.Tensor,
    tiles: torch.Tensor,
    page_tables: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    window: int | None,
    scales: KVScales | None,
    use: tuned.Use,
) -> None:
    """``tiles[N, 4]`` of ``q[T, Hq, D]`` over ``kv_layer[2, pages, page_size, Hkv, D]`` into ``out``.

    ``page_tables[S, P]`` int32. One program a (tile, KV head), tiles of one head side by side.
    """
    page_size, kv_heads, dim = kv_layer.shape[2:]
    assert page_tables.dtype == torch.int32, page_tables.dtype
    assert page_tables.stride(1) == 1, page_tables.stride()
    assert q.stride(2) == 1, q.stride()
    assert out.stride()[1:] == (dim, 1), out.stride()
    key_scales, value_scales = (kv_layer, kv_layer) if scales is None else scales.values
    _prefill_kernel[(tiles.shape[0], kv_heads)](
        q,
        kv_layer[0],
        kv_layer[1],
        key_scales,
        value_scales,
        out,
        tiles,
        page_tables,
        scale * LOG2_E,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        page_tables.stride(0),
        KV_HEADS=kv_heads,
        GROUP=q.shape[1] // kv_heads,
        D=dim,
        PAGE=page_size,
        WINDOW=window or 0,
        SCALES=NO_SCALES if scales is None else TOKEN_SCALES if scales.per_token else HEAD_SCALES,
        DOT=product_type(q.dtype),
        BLOCK_M=use["BLOCK_M"],
        BLOCK_N=use["BLOCK_N"],
        BLOCK_D=max(16, power_of_two(dim)),
        num_warps=use["num_warps"],
        num_stages=use["num_stages"],
        maxnreg=use["maxnreg"] or None,
    )
