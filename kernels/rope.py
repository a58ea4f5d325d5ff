"""Rotary position embedding (Su et al. 2021), with the halves of a head as the rotated pairs.

Elementwise: a row's bits depend on its own head and angles only. Knows no frequency and no scaling rule; the
angles come as rows of a table made once.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch

from kernels.backend import jit, power_of_two, tl, use_triton


def apply_rope(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate ``q[T, Hq, D]`` and ``k[T, Hkv, D]`` by the angles of their rows.

    ``cos``, ``sin`` are fp32 ``[T, rotary_dim / 2]``: the table's rows at the tokens' positions. Dimensions
    from ``rotary_dim`` on pass unchanged.
    """
    assert cos.shape == sin.shape == (q.shape[0], cos.shape[1]), (cos.shape, sin.shape, q.shape)
    assert 2 * cos.shape[1] <= q.shape[2] == k.shape[2], (cos.shape, q.shape, k.shape)
    assert cos.dtype == sin.dtype == torch.float32, (cos.dtype, sin.dtype)
    rotate = rotate_triton if use_triton(q) else rotate_torch
    return rotate(q, cos, sin), rotate(k, cos, sin)


def rotate_torch(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Reference and CPU path: about 5 passes over x[T, H, D]. Fused: reads and writes x once."""
    half = cos.shape[1]
    c, s = cos[:, None], sin[:, None]  # [T, 1, R / 2]: the same for every head
    wide = x.float()
    a, b, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    return torch.cat((a * c - b * s, b * c + a * s, rest), dim=2).to(x.dtype)


@jit
def _rotate_kernel(x, cos, sin, out, row_stride, head_stride, H, D, HALF, BLOCK_D: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    inside, rotated = d < D, d < 2 * HALF
    source = x + row * row_stride + head * head_stride
    partner = tl.where(d < HALF, d + HALF, d - HALF)
    angle = row * HALF + tl.where(d < HALF, d, d - HALF)
    c = tl.load(cos + angle, mask=rotated, other=1.0)
    s = tl.load(sin + angle, mask=rotated, other=0.0)
    own = tl.load(source + d, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(source + partner, mask=rotated, other=0.0).to(tl.float32)
    turned = own * c + tl.where(d < HALF, -other, other) * s
    tl.store(out + (row * H + head) * D + d, turned.to(out.dtype.element_ty), mask=inside)


def rotate_triton(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """One program a (row, head). x may be a slice of a fused qkv: only its last stride must be 1."""
    rows, heads, dim = x.shape
    assert x.stride(2) == 1, x.stride()
    assert cos.is_contiguous(), cos.stride()
    assert sin.is_contiguous(), sin.stride()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rows:
        grid = (rows, heads)
        _rotate_kernel[grid](
            x, cos, sin, out, x.stride(0), x.stride(1), heads, dim, cos.shape[1], BLOCK_D=power_of_two(dim)
        )
    return out
