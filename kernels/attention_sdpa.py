"""Prefill attention by torch: a chunk's KV is gathered from its pages, and torch's kernel attends to it.

The gather reads and writes 2 c Hkv D numbers for a context c, little beside the 4 D operations of each (row,
key, head). Whether a chunk comes here is read from the table of measurements ("prefill_attention", by head
width and by rows and context to a power of two); without an entry none does. Never in a deterministic step:
torch's kernels choose their own tiles and splits. Knows one chunk; knows no Triton.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels import tuned
from kernels.attention_meta import AttentionMeta
from kernels.kv_pages import gather

OWN, FLASH, CUDNN = 0, 1, 2  # what "by" of an entry says
DEFAULT = {"by": OWN}


def shape_of(dim: int, rows: int, context: int) -> tuned.Shape:
    return {"dim": dim, "rows": tuned.bucket(rows), "context": tuned.bucket(context)}


def way_of(
    meta: AttentionMeta, sequence: int, q_dtype: torch.dtype, kv_dtype: torch.dtype, dim: int,
    window: int | None, device: torch.device,
) -> int:  # fmt: skip
    """By what the rows of one sequence are computed: OWN, FLASH or CUDNN."""
    rows = meta.query_starts[sequence + 1] - meta.query_starts[sequence]
    fused = q_dtype == kv_dtype and q_dtype.itemsize == 2 and dim % 8 == 0 and dim <= 256
    if meta.deterministic or rows == 1 or window is not None or (device.type == "cuda" and not fused):
        return OWN
    context = meta.context_lens[sequence]
    way = tuned.config("prefill_attention", shape_of(dim, rows, context), DEFAULT, device)["by"]
    return OWN if way == CUDNN and rows != context else way


def attend_chunk(
    q: torch.Tensor,
    kv_layer: torch.Tensor,
    meta: AttentionMeta,
    sequence: int,
    scale: float,
    way: int,
) -> torch.Tensor:
    """Rows of one sequence of ``q[T, Hq, D]`` over its pages of ``kv_layer`` -> ``[n, Hq, D]``."""
    rows = slice(meta.query_starts[sequence], meta.query_starts[sequence + 1])
    slots = meta.once(("slots", sequence), lambda: _slots(meta, sequence, q.device))
    # [2, Hkv, c, D]: a key's KV heads lie together in the copy, so what SDPA sees is a view of it.
    k, v = gather(kv_layer[None], slots)[0].transpose(1, 2)
    return attend_contiguous(q[rows].transpose(0, 1)[None], k[None], v[None], scale, way)[0].transpose(0, 1)


def _slots(meta: AttentionMeta, sequence: int, device: torch.device) -> torch.Tensor:
    """[c] int64, for all layers."""
    context = meta.context_lens[sequence]
    pages = meta.page_tables[sequence, : -(-context // meta.page_size)].to(device, torch.int64)
    within = torch.arange(meta.page_size, device=device)
    return (pages[:, None] * meta.page_size + within).flatten()[:context]


def attend_contiguous(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, way: int
) -> torch.Tensor:
    """``q[1, Hq, n, D]``, the newest rows of ``k, v[1, Hkv, c, D]`` -> ``[1, Hq, n, D]``.

    cuDNN's mask begins at the first key, so it is for chunks without a prefix only; that of flash attention
    ends at the last.
    """
    from torch.nn.attention.bias import (
        causal_lower_right,
    )  # loads torch's compiler: not where nobody comes here

    rows, context = q.shape[2], k.shape[2]
    causal = rows == context
    backend = SDPBackend.CUDNN_ATTENTION if way == CUDNN and causal else SDPBackend.FLASH_ATTENTION
    with sdpa_kernel(backend) if q.is_cuda else nullcontext():
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if causal else causal_lower_right(rows, context),
            is_causal=causal,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
