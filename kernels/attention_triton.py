"""Paged attention on a GPU: which rows of a step go to which kernel.

Single rows go to ``attention_decode``, chunks to ``attention_prefill``, or to torch's own attention where the
table of measurements says so (``attention_sdpa``). Knows steps; computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from kernels import attention_decode, attention_prefill, attention_sdpa
from kernels.attention_items import DecodePlan, items_of, most_items, plan_decode
from kernels.attention_meta import AttentionMeta, KVScales
from kernels.tuned import Use


@dataclass(frozen=True, slots=True)
class Step:
    """A step on the device, for one kind of layer."""

    page_tables: torch.Tensor  # [S, P] int32
    tiles: torch.Tensor  # [N, 4] int32, see attention_prefill
    singles: DecodePlan | None
    others: list[tuple[int, int]]  # (sequence, way) of the chunks that torch computes


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the plans of two layers of a step differ by."""

    heads: int
    kv_heads: int
    dim: int
    dtype: torch.dtype
    kv_dtype: torch.dtype
    window: int | None
    device: torch.device


def attend(
    q: torch.Tensor,
    kv_layer: torch.Tensor,
    meta: AttentionMeta,
    scale: float,
    window: int | None,
    scales: KVScales | None = None,
) -> torch.Tensor:
    """``q[T, Hq, D]``, ``kv_layer[2, pages, page_size, Hkv, D]`` -> ``[T, Hq, D]``; sums in fp32."""
    assert kv_layer[0].is_contiguous(), kv_layer.stride()
    assert (scales is not None) == (kv_layer.dtype.itemsize == 1), (kv_layer.dtype, scales)
    assert scales is not None or q.dtype == kv_layer.dtype, (q.dtype, kv_layer.dtype)
    assert scale > 0, scale
    kind = _Kind(q.shape[1], kv_layer.shape[3], q.shape[2], q.dtype, kv_layer.dtype, window, q.device)
    use = attention_prefill.use_of(kind.dim, kind.dtype, kind.kv_dtype, kind.device)
    step = meta.once(kind, lambda: _captured(meta, kind) if meta.device else _plan(meta, kind, use))
    if len(step.others) == len(meta.context_lens) == 1:  # nothing to put together
        ((sequence, way),) = step.others
        return attention_sdpa.attend_chunk(q, kv_layer, meta, sequence, scale, way)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if step.tiles.shape[0]:
        attention_prefill.attend_tiles(
            q, kv_layer, step.tiles, step.page_tables, out, scale, window, scales, use
        )
    if step.singles is not None:
        attention_decode.attend_singles(q, kv_layer, step.singles, out, scale, scales)
    for sequence, way in step.others:
        rows = slice(meta.query_starts[sequence], meta.query_starts[sequence + 1])
        out[rows] = attention_sdpa.attend_chunk(q, kv_layer, meta, sequence, scale, way)
    return out


def _plan(meta: AttentionMeta, kind: _Kind, use: Use) -> Step:
    tables = meta.once(
        ("tables", kind.device), lambda: meta.page_tables.to(kind.device, torch.int32).contiguous()
    )
    tiled, singles, others = [], [], []
    for s, (start, stop) in enumerate(pairwise(meta.query_starts)):
        way = attention_sdpa.way_of(meta, s, kind.dtype, kind.kv_dtype, kind.dim, kind.window, kind.device)
        if stop - start == 1 and not meta.deterministic:
            singles.append(s)
        elif way == attention_sdpa.OWN:
            tiled.append(s)
        else:
            others.append((s, way))
    tiles = _upload(attention_prefill.plan_tiles(meta, tiled, _tokens(kind, use)), kind.device)
    return Step(tables, tiles, _plan_singles(meta, kind, tables, singles) if singles else None, others)


def _upload(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Without waiting for the device."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _plan_singles(meta: AttentionMeta, kind: _Kind, tables: torch.Tensor, singles: list[int]) -> DecodePlan:
    contexts = [meta.context_lens[s] for s in singles]
    # One copy to the device: sequence, row and context of each, all at addresses that 16 divides, since
    # kernels are compiled anew for others.
    pad = [0] * (-len(singles) % 4)
    rows = [meta.query_starts[s] for s in singles]
    host = torch.tensor([[*each, *pad] for each in (singles, rows, contexts)], dtype=torch.int32)
    sequences, rows, lens = _upload(host, kind.device)[:, : len(singles)]
    if len(singles) < len(meta.context_lens):
        tables = tables.index_select(0, sequences)
    use = _decode_use(kind)
    items = items_of(contexts, kind.window, use["SPLIT"])
    return plan_decode(
        lens,
        tables,
        meta.page_size,
        items,
        heads=kind.heads,
        dim=kind.dim,
        use=use,
        window=kind.window,
        rows=rows,
    )


def _captured(meta: AttentionMeta, kind: _Kind) -> Step:
    """As ``_plan``, of rows whose contexts the host does not know."""
    assert meta.device is not None
    lens, most_tokens, starts = meta.device
    if starts is not None:
        use = attention_prefill.use_of(kind.dim, kind.dtype, kind.kv_dtype, kind.device)
        tokens, rows = _tokens(kind, use), meta.query_starts[-1]
        tiles = meta.once(
            ("tiles", tokens), lambda: attention_prefill.tiles_on_device(starts, lens, rows, tokens)
        )
        return Step(meta.page_tables, tiles, None, [])
    none = torch.empty(0, 4, dtype=torch.int32, device=kind.device)
    if meta.deterministic:
        return Step(meta.page_tables, attention_prefill.tiles_of_singles(lens), None, [])
    use = _decode_use(kind)
    most = most_items(lens.shape[0], most_tokens, kind.window, use["SPLIT"])
    plan = plan_decode(
        lens,
        meta.page_tables,
        meta.page_size,
        most,
        heads=kind.heads,
        dim=kind.dim,
        use=use,
        window=kind.window,
    )
    return Step(meta.page_tables, none, plan, [])


def _decode_use(kind: _Kind) -> Use:
    group = kind.heads // kind.kv_heads
    return attention_decode.use_of(group, kind.dim, kind.dtype, kind.kv_dtype, kind.device)


def _tokens(kind: _Kind, use: Use) -> int:
    group = kind.heads // kind.kv_heads
    assert group <= use["BLOCK_M"], (group, use)
    return use["BLOCK_M"] // group
