"""Causal attention of a mixed batch over paged KV: chunks of prompts and decode rows of many sequences.

On CPU in float32 a row's bits depend on that row and its keys alone (see ``attention_cpu``); on a GPU they do
not depend on the batch either (see ``attention_triton``). Knows one layer at a time; knows no model.
"""

from __future__ import annotations

import torch

from kernels import attention_cpu, attention_triton
from kernels.attention_items import DecodePlan, plan_decode
from kernels.attention_meta import AttentionMeta, KVScales
from kernels.backend import use_triton

__all__ = [
    "AttentionMeta",
    "DecodePlan",
    "KVScales",
    "paged_attention",
    "paged_attention_reference",
    "plan_decode",
]


def paged_attention(
    q: torch.Tensor,
    kv_layer: torch.Tensor,
    meta: AttentionMeta,
    scale: float,
    window: int | None,
    scales: KVScales | None = None,
) -> torch.Tensor:
    """``q[T, Hq, D]`` over ``kv_layer[2, pages, page_size, Hkv, D]`` -> ``[T, Hq, D]``.

    Query head h reads KV head h // (Hq / Hkv). A row at position p sees the positions up to p, and with a
    ``window`` of w only those above p - w. ``kv_layer`` has the type of q, or is int8 or float8_e4m3fn and
    stands for its numbers times ``scales``.
    """
    assert q.shape[0] == meta.query_starts[-1], (q.shape, meta.query_starts)
    assert q.shape[2] == kv_layer.shape[4], (q.shape, kv_layer.shape)
    assert q.shape[1] % kv_layer.shape[3] == 0, (q.shape, kv_layer.shape)
    assert kv_layer.shape[2] == meta.page_size, (kv_layer.shape, meta.page_size)
    assert window is None or window > 0, window
    if use_triton(q):
        return attention_triton.attend(q, kv_layer, meta, scale, window, scales)
    if meta.device is not None:
        rows, plan = meta.on_host()
        out = torch.zeros_like(q)
        out[rows] = paged_attention(q[rows], kv_layer, plan, scale, window, scales)
        return out
    if q.device.type == "cpu" and scales is None:
        return attention_cpu.attend(q, kv_layer, meta, scale, window)
    return paged_attention_reference(q, kv_layer, meta, scale, window, scales)


def paged_attention_reference(
    q: torch.Tensor,
    kv_layer: torch.Tensor,
    meta: AttentionMeta,
    scale: float,
    window: int | None,
    scales: KVScales | None = None,
) -> torch.Tensor:
    """One sequence at a time, all scores at once; in float64 where q is, else in float32.

    For n rows and context c it copies 2 c Hkv D numbers out of the pages, 2 c Hq D more to repeat the
    heads, and passes 4 times over n c Hq scores. Fused: reads 2 c Hkv D once a tile of rows; scores stay on
    the chip.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    heads_per_kv = q.shape[1] // kv_layer.shape[3]
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    for s, context in enumerate(meta.context_lens):
        start, stop = meta.query_starts[s], meta.query_starts[s + 1]
        pages = meta.page_tables[s, : -(-context // meta.page_size)].to(q.device)
        kv = kv_layer[:, pages].to(wide)  # [2, pages, page_size, Hkv, D]
        if scales is not None:
            by = scales.values[:, pages] if scales.per_token else scales.values[:, None, None]
            kv *= by[..., None].to(wide)
        kv = kv.flatten(1, 2)[:, :context]  # [2, c, Hkv, D]
        k, v = kv.repeat_interleave(heads_per_kv, dim=2)
        row = torch.arange(context - (stop - start), context, device=q.device)[:, None]
        key = torch.arange(context, device=q.device)
        unseen = key > row if window is None else (key > row) | (key <= row - window)
        scores = torch.einsum("thd,nhd->htn", q[start:stop].to(wide), k) * scale
        weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
        out[start:stop] = torch.einsum("htn,nhd->thd", weights, v).to(q.dtype)
    return out
