"""KV as codes of 8 bits, for a wire or for pages that hold half as much: one scale a token and head.

number = code * scale. Symmetric, round to nearest even; a scale is the head's largest magnitude over the
largest code, 127 (int8) or 448 (float8_e4m3fn). What comes back differs from what was sent by at most half a
step of the scale with int8, 0.501 scale for the arithmetic's own rounding; with float8 by 1/16 of the number,
or scale / 1024 where that is more; and by the rounding to the KV's dtype. Heads whose numbers all lie under
1e-30 come back as zeros. Finite numbers only. Knows slots and memory; not whose they are.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch

from kernels import kv_pages, tuned
from kernels.backend import jit, power_of_two, tl, use_triton

CODE_MAX = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
TINY = 1e-30  # the reciprocal of what is smaller may overflow


def gather_quantised(
    kv: torch.Tensor, slots: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(codes[L', 2, n, Hkv, D], scales float32 [L', 2, n, Hkv])`` of the slots of ``kv``.

    ``kv[L', 2, pages, page_size, Hkv, D]``; ``slots`` int64 [n].
    """
    assert dtype in CODE_MAX, dtype
    assert slots.dtype == torch.int64, slots.dtype
    if use_triton(kv):
        return gather_quantised_triton(kv, slots, dtype)
    return quantise_torch(kv_pages.gather(kv, slots), dtype)


def scatter_quantised(
    kv: torch.Tensor, slots: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor
) -> None:
    """Write the numbers that ``codes`` and ``scales`` stand for to ``slots[n]`` int64, all different."""
    assert codes.dtype in CODE_MAX, codes.dtype
    assert scales.dtype == torch.float32, scales.dtype
    assert slots.dtype == torch.int64, slots.dtype
    assert codes.shape == (kv.shape[0], 2, slots.shape[0], *kv.shape[4:]), (codes.shape, kv.shape)
    assert scales.shape == codes.shape[:-1], (scales.shape, codes.shape)
    if use_triton(kv):
        scatter_quantised_triton(kv, slots, codes, scales)
    else:
        kv_pages.scatter(kv, slots, dequantise_torch(codes, scales, kv.dtype))


def quantise_torch(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """``x[..., D]`` to ``(codes[..., D], scales[...])``. Fused: reads x once, writes half as many bytes."""
    largest = x.float().abs().amax(-1)
    largest = torch.where(largest < TINY, 0.0, largest)
    most = torch.full_like(
        largest, CODE_MAX[dtype]
    )  # torch divides by a number less exactly than by a tensor
    return _coded(x, _over(most, largest), dtype), largest / most


def codes_of(x: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The codes of ``x[..., D]`` under given ``scales[...]``; numbers too large get the largest code."""
    return _coded(x, _over(torch.ones_like(scales), scales), dtype)


def dequantise_torch(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (codes.float() * scales[..., None]).to(dtype)


def _over(numerator: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``numerator / x``, and 0 where x is 0."""
    return torch.where(x == 0, 0.0, numerator / x)


def _coded(x: torch.Tensor, inverse: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    largest = CODE_MAX[dtype]
    scaled = (x.float() * inverse[..., None]).clamp(-largest, largest)
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype)


@jit
def to_codes(x, inverse, INT8: tl.constexpr):
    """Codes of fp32 ``x * inverse``; launch with ``enable_fp_fusion=False``.

    Adding a number whose last place is one step of the code rounds to that step, to even; taking it away
    again is exact. The conversion behind it has nothing left to round, on whatever executes it.
    """
    if INT8:
        x = tl.minimum(tl.maximum(x * inverse, -127.0), 127.0)
        return ((x + 12582912.0) - 12582912.0).to(tl.int8)  # 1.5 * 2^23: its last place is 1
    else:
        x = tl.minimum(tl.maximum(x * inverse, -448.0), 448.0)
        power = (x.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)  # 2^floor(log2 |x|)
        shift = (
            tl.maximum(power, 0.015625) * 1572864.0
        )  # 1.5 * 2^20: its last place is an eighth of the power
        return ((x + shift) - shift).to(tl.float8e4nv)


@jit
def largest_magnitude(x):
    """Of each row of fp32 ``x``; 0 where it is under 1e-30."""
    largest = tl.max(tl.abs(x), axis=1)
    return tl.where(largest < 1e-30, 0.0, largest)


@jit
def over(numerator: tl.constexpr, x):
    """``numerator / x`` to the last bit, and 0 where x is 0."""
    quotient = tl.div_rn(tl.full(x.shape, numerator, tl.float32), tl.where(x == 0.0, 1.0, x))
    return tl.where(x == 0.0, 0.0, quotient)


@jit(do_not_specialize=["kv_rows", "N"], do_not_specialize_on_alignment=["slots"])
def _quantise_kernel(
    kv, slots, codes, scales, kv_rows, N, HEADS: tl.constexpr, D: tl.constexpr,
    INT8: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # of the slab's (token, head)
    listed, d = row < N * HEADS, tl.arange(0, BLOCK_D)[None, :]
    inside = listed[:, None] & (d < D)
    slot = tl.load(slots + row // HEADS, mask=listed, other=0)
    source = ((plane * kv_rows + slot) * HEADS + row % HEADS)[:, None] * D + d
    x = tl.load(kv + source, mask=inside, other=0.0).to(tl.float32)
    largest = largest_magnitude(x)
    LARGEST: tl.constexpr = 127.0 if INT8 else 448.0
    to = plane * N * HEADS + row
    tl.store(codes + to[:, None] * D + d, to_codes(x, over(LARGEST, largest)[:, None], INT8), mask=inside)
    tl.store(scales + to, tl.div_rn(largest, tl.full(largest.shape, LARGEST, tl.float32)), mask=listed)


@jit(do_not_specialize=["kv_rows", "N"], do_not_specialize_on_alignment=["slots"])
def _dequantise_kernel(
    kv, slots, codes, scales, kv_rows, N, HEADS: tl.constexpr, D: tl.constexpr,
    INT8: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    listed, d = row < N * HEADS, tl.arange(0, BLOCK_D)[None, :]
    inside = listed[:, None] & (d < D)
    slot = tl.load(slots + row // HEADS, mask=listed, other=0)
    at = plane * N * HEADS + row
    scale = tl.load(scales + at, mask=listed, other=0.0)[:, None]
    x = tl.load(codes + at[:, None] * D + d, mask=inside, other=0.0).to(tl.float32) * scale
    target = ((plane * kv_rows + slot) * HEADS + row % HEADS)[:, None] * D + d
    tl.store(kv + target, x.to(kv.dtype.element_ty), mask=inside)


def gather_quantised_triton(
    kv: torch.Tensor, slots: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*kv.shape[:2], slots.shape[0], *kv.shape[4:])
    codes = torch.empty(shape, dtype=dtype, device=kv.device)
    scales = torch.empty(shape[:-1], dtype=torch.float32, device=kv.device)
    _launch(_quantise_kernel, kv, slots, codes, scales)
    return codes, scales


def scatter_quantised_triton(
    kv: torch.Tensor, slots: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor
) -> None:
    _launch(_dequantise_kernel, kv, slots, codes, scales)


def _launch(kernel, kv: torch.Tensor, slots: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
    """A program has 4096 numbers, 32 a thread: four loads of 16 bytes in flight where they are bf16."""
    for each in (kv, slots, codes, scales):
        assert each.is_contiguous(), each.stride()
    planes, (count, heads, dim) = kv.shape[0] * 2, codes.shape[2:]
    use = tuned.config("kv_wire", {"D": dim}, {"TILE": 4096, "num_warps": 4}, kv.device)
    block = power_of_two(dim)
    rows = max(1, use["TILE"] // block)
    if count:
        kernel[(-(-count * heads // rows), planes)](
            kv, slots, codes, scales, kv.shape[2] * kv.shape[3], count, HEADS=heads, D=dim,
            INT8=codes.dtype == torch.int8, ROWS=rows, BLOCK_D=block, num_warps=use["num_warps"],
            enable_fp_fusion=False,
        )  # fmt: skip
