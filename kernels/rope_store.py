"""What lies between the projection and the attention of a layer: norm per head, rotation, store in the pages.

One launch reads ``qkv`` once, writes the rotated q once and K and V once to their slots, where the same steps
one by one read and write q and k four times over. A token's bits depend on that token alone. Knows one
layer's pages and a table of angles; knows no sequence, and not whose a slot is.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch

from kernels.kv_pages import store_torch
from kernels.kv_wire import CODE_MAX, codes_of, quantise_torch
from kernels.norm import rms_norm
from kernels.rope import rotate_torch

Norm = torch.Tensor | None


def rope_store(
    qkv: torch.Tensor, heads: tuple[int, int], q_norm: Norm, k_norm: Norm, eps: float,
    cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor,
    kv_layer: torch.Tensor, slots: torch.Tensor, scales: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """The rotated ``q[T, Hq, D]`` of ``qkv[T, (Hq + 2 Hkv) D]``; stores K and V. ``heads`` is (Hq, Hkv).

    ``q_norm``, ``k_norm`` [D]: both or neither. ``cos``, ``sin``: float32 [P, R / 2], the whole table.
    ``positions``, ``slots``: int64 [T]; a slot of -1 stores nothing, all others differ.
    ``kv_layer`` [2, pages, page_size, Hkv, D]. Where it holds int8 or float8_e4m3fn codes there are float32
    ``scales``, number = code * scale: [2, Hkv] are read, [2, pages, page_size, Hkv] are written, a token's
    own (its largest magnitude in the head over 127 or 448).
    """
    (queries, kv_heads), dim = heads, kv_layer.shape[4]
    tokens = slots.shape[0]
    assert qkv.shape == (tokens, (queries + 2 * kv_heads) * dim), (qkv.shape, heads, kv_layer.shape)
    assert kv_layer.shape[::3] == (2, kv_heads), (kv_layer.shape, heads)
    assert positions.shape == slots.shape, (positions.shape, slots.shape)
    assert positions.dtype == slots.dtype == torch.int64, (positions.dtype, slots.dtype)
    assert cos.shape == sin.shape, (cos.shape, sin.shape)
    assert cos.dtype == sin.dtype == torch.float32, (cos.dtype, sin.dtype)
    assert 2 * cos.shape[1] <= dim, (cos.shape, dim)
    assert (q_norm is None) == (k_norm is None)
    assert (scales is not None) == (kv_layer.dtype in CODE_MAX), (kv_layer.dtype, scales)
    if scales is not None:
        assert scales.dtype == torch.float32, scales.dtype
        assert scales.shape in ((2, kv_heads), kv_layer.shape[:4]), (scales.shape, kv_layer.shape)
    run = rope_store_torch
    return run(qkv, heads, q_norm, k_norm, eps, cos, sin, positions, kv_layer, slots, scales)


def rope_store_torch(
    qkv: torch.Tensor, heads: tuple[int, int], q_norm: Norm, k_norm: Norm, eps: float,
    cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor,
    kv_layer: torch.Tensor, slots: torch.Tensor, scales: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Reference and CPU path: the steps one by one.

    Fused: reads T (Hq + 2 Hkv) D numbers and T R of the table, writes as many numbers; about 10 operations a
    number.
    """
    (queries, kv_heads), dim = heads, kv_layer.shape[4]
    q, k, v = torch.split(qkv.view(-1, queries + 2 * kv_heads, dim), [queries, kv_heads, kv_heads], dim=1)
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps)
    c, s = cos.index_select(0, positions), sin.index_select(0, positions)
    q, k = rotate_torch(q, c, s), rotate_torch(k, c, s)
    kept = slots >= 0
    if not bool(kept.all()):
        k, v, slots = k[kept], v[kept], slots[kept]
    if scales is not None:
        k, v = _coded(k, v, kv_layer.dtype, slots, scales)
        k, v, kv_layer = (each.view(torch.uint8) for each in (k, v, kv_layer))  # index_copy_ knows no float8
    store_torch(k.to(kv_layer.dtype), v.to(kv_layer.dtype), kv_layer, slots)
    return q


def _coded(
    k: torch.Tensor, v: torch.Tensor, dtype: torch.dtype, slots: torch.Tensor, scales: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of ``k, v[T, Hkv, D]``; their scales are written to ``scales`` where they are a token's own."""
    both = torch.stack((k, v))
    if scales.dim() == 2:
        codes = codes_of(both, scales[:, None], dtype)
    else:
        codes, fresh = quantise_torch(both, dtype)
        scales.view(2, -1, scales.shape[3]).index_copy_(1, slots, fresh)
    return codes[0], codes[1]
