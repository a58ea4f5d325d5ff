"""KV as codes of 8 bits, for a wire or for pages that hold half as much: one scale a token and head.

number = code * scale. Symmetric, round to nearest even; a scale is the head's largest magnitude over the
largest code, 127 (int8) or 448 (float8_e4m3fn). What comes back differs from what was sent by at most half a
step of the scale with int8, 0.501 scale for the arithmetic's own rounding; with float8 by 1/16 of the number,
or scale / 1024 where that is more; and by the rounding to the KV's dtype. Heads whose numbers all lie under
1e-30 come back as zeros. Finite numbers only. Knows slots and memory; not whose they are.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch

from kernels import kv_pages

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
    kv_pages.scatter(kv, slots, dequantise_torch(codes, scales, kv.dtype))


def quantise_torch(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """``x[..., D]`` to ``(codes[..., D], scales[...])``. Fused: reads x once, writes half as many bytes."""
    largest = x.float().abs().amax(-1)
    largest = torch.where(largest < TINY, 0.0, largest)
    return _coded(x, _over(CODE_MAX[dtype], largest), dtype), largest / CODE_MAX[dtype]


def codes_of(x: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The codes of ``x[..., D]`` under given ``scales[...]``; numbers too large get the largest code."""
    return _coded(x, _over(1.0, scales), dtype)


def dequantise_torch(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (codes.float() * scales[..., None]).to(dtype)


def _over(numerator: float, x: torch.Tensor) -> torch.Tensor:
    """``numerator / x``, and 0 where x is 0."""
    return torch.where(x == 0, 0.0, numerator / x)


def _coded(x: torch.Tensor, inverse: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    largest = CODE_MAX[dtype]
    scaled = (x.float() * inverse[..., None]).clamp(-largest, largest)
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype)
