"""What lies between the projection and the attention of a layer: norm per head, rotation, store in the pages.

One launch reads ``qkv`` once, writes the rotated q once and K and V once to their slots, where the same steps
one by one read and write q and k four times over. A token's bits depend on that token alone. Knows one
layer's pages and a table of angles; knows no sequence, and not whose a slot is.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch

from kernels import tuned
from kernels.backend import jit, power_of_two, tl, use_triton
from kernels.kv_pages import store_torch
from kernels.kv_wire import CODE_MAX, codes_of, largest_magnitude, over, quantise_torch, to_codes
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
    run = rope_store_triton if use_triton(qkv) else rope_store_torch
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


# In the kernel a head is two tiles: ``a``, its first R / 2 numbers, and ``b``, all behind them. The first
# R / 2 of b are turned with a; what else b has passes.


@jit
def _load(x, heads, HALF: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    """``a`` and ``b`` in fp32 [G, BLOCK] of the heads at the pointers ``x`` [G, 1]."""
    h = tl.arange(0, BLOCK)[None, :]
    a = tl.load(x + h, mask=heads & (h < HALF), other=0.0)
    b = tl.load(x + HALF + h, mask=heads & (h < D - HALF), other=0.0)
    return a.to(tl.float32), b.to(tl.float32)


@jit
def _store(x, heads, a, b, HALF: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    h = tl.arange(0, BLOCK)[None, :]
    tl.store(x + h, a.to(x.dtype.element_ty), mask=heads & (h < HALF))
    tl.store(x + HALF + h, b.to(x.dtype.element_ty), mask=heads & (h < D - HALF))


@jit
def _turned(
    x, heads, weight, eps, cos, sin,
    NORM: tl.constexpr, HALF: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The heads at ``x``, normed and turned, rounded after each as where they are steps of their own."""
    h = tl.arange(0, BLOCK)[None, :]
    a, b = _load(x, heads, HALF, D, BLOCK)
    if NORM:
        scale = tl.rsqrt(tl.sum(a * a + b * b, axis=1) / D + eps)[:, None]
        wa, wb = _load(weight, h >= 0, HALF, D, BLOCK)
        a = (a * scale * wa).to(x.dtype.element_ty).to(tl.float32)
        b = (b * scale * wb).to(x.dtype.element_ty).to(tl.float32)
    c = tl.load(cos + h, mask=h < HALF, other=1.0)
    s = tl.load(sin + h, mask=h < HALF, other=0.0)
    turned = tl.where(h < HALF, b * c + a * s, b)
    return (a * c - b * s).to(x.dtype.element_ty), turned.to(x.dtype.element_ty)


@jit
def _store_kv(
    kv, rows, listed, a, b, scales, fixed,
    CODES: tl.constexpr, INT8: tl.constexpr, HALF: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Heads to ``rows`` [G] of kv, plain or as codes: under the scales at ``fixed`` [G], or their own."""
    target, heads = kv + rows[:, None] * D, listed[:, None]
    if CODES:
        a, b = a.to(tl.float32), b.to(tl.float32)
        LARGEST: tl.constexpr = 127.0 if INT8 else 448.0
        if CODES == 1:
            inverse = over(1.0, tl.load(scales + fixed, mask=listed, other=1.0))
        else:
            largest = tl.maximum(largest_magnitude(a), largest_magnitude(b))
            inverse = over(LARGEST, largest)
            full = tl.full(largest.shape, LARGEST, tl.float32)
            tl.store(scales + rows, tl.div_rn(largest, full), mask=listed)
        a, b = to_codes(a, inverse[:, None], INT8), to_codes(b, inverse[:, None], INT8)
    _store(target, heads, a, b, HALF, D, BLOCK)


@jit(do_not_specialize_on_alignment=["positions", "slots"])
def _rope_store_kernel(
    qkv, q_norm, k_norm, eps, cos, sin, positions, q, kv, slots, scales, qkv_stride, kv_rows,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr,
    CODES: tl.constexpr, INT8: tl.constexpr, G: tl.constexpr, GKV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    q_groups = tl.cdiv(HQ, G)
    groups = q_groups + tl.cdiv(HKV, GKV)
    token, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    position = tl.load(positions + token)
    c, s, source = cos + position * HALF, sin + position * HALF, qkv + token * qkv_stride
    if group < q_groups:
        query = group * G + tl.arange(0, G)[:, None]
        qa, qb = _turned(source + query * D, query < HQ, q_norm, eps, c, s, NORM, HALF, D, BLOCK)
        _store(q + (token * HQ + query) * D, query < HQ, qa, qb, HALF, D, BLOCK)
    else:
        head = (group - q_groups) * GKV + tl.arange(0, GKV)
        row = tl.load(slots + token) * HKV + head  # of K; all negative where the slot is
        inside, kept = head < HKV, (head < HKV) & (row >= 0)
        keys = source + (HQ + head[:, None]) * D
        va, vb = _load(keys + HKV * D, inside[:, None], HALF, D, BLOCK)  # on its way while K is turned
        ka, kb = _turned(keys, inside[:, None], k_norm, eps, c, s, NORM, HALF, D, BLOCK)
        _store_kv(kv, row, kept, ka, kb, scales, head, CODES, INT8, HALF, D, BLOCK)
        _store_kv(kv, row + kv_rows, kept, va, vb, scales, HKV + head, CODES, INT8, HALF, D, BLOCK)


def rope_store_triton(
    qkv: torch.Tensor, heads: tuple[int, int], q_norm: Norm, k_norm: Norm, eps: float,
    cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor,
    kv_layer: torch.Tensor, slots: torch.Tensor, scales: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """One program a (token, group of q heads) and a (token, group of K heads with their V heads)."""
    (queries, kv_heads), (tokens, dim) = heads, (slots.shape[0], kv_layer.shape[4])
    for each in (q_norm, k_norm, cos, sin, positions, slots, kv_layer, scales):
        assert each is None or each.is_contiguous(), each.stride()
    for norm in (q_norm, k_norm):
        assert norm is None or norm.shape == (dim,), norm.shape
    assert qkv.stride(1) == 1, qkv.stride()
    q = torch.empty(tokens, queries, dim, dtype=qkv.dtype, device=qkv.device)
    shape = {"heads": queries, "kv_heads": kv_heads, "D": dim}
    use = tuned.config("rope_store", shape, default_use(dim), qkv.device)
    g, gkv = min(use["G"], power_of_two(queries)), min(max(1, use["G"] // 2), power_of_two(kv_heads))
    half = cos.shape[1]
    if tokens:
        _rope_store_kernel[(tokens * (-(-queries // g) - (-kv_heads // gkv)),)](
            qkv, qkv if q_norm is None else q_norm, qkv if k_norm is None else k_norm, eps,
            cos, sin, positions, q, kv_layer, slots, cos if scales is None else scales,
            qkv.stride(0), kv_layer[0].numel() // dim,
            HQ=queries, HKV=kv_heads, D=dim, HALF=half, NORM=q_norm is not None,
            CODES=0 if scales is None else 1 if scales.dim() == 2 else 2, INT8=kv_layer.dtype == torch.int8,
            G=g, GKV=gkv, BLOCK=power_of_two(max(half, dim - half)), num_warps=use["num_warps"],
            enable_fp_fusion=False,  # products are rounded before they are summed, as torch does
        )  # fmt: skip
    return q


def default_use(dim: int) -> dict[str, int]:
    """2048 numbers a program: two loads of 16 bytes a thread; 16 programs an SM keep 64 KiB in flight."""
    return {"G": max(2, 2048 // power_of_two(dim)), "num_warps": 4}
