"""Triton kernels against the references; collected only when named: ``test_triton`` interprets it.

On a machine with a GPU the same cases run compiled: ``pytest tests/kernels/triton_cases.py``.
"""

from __future__ import annotations

import pytest
import torch
from attention_world import make_world

from kernels import attention_triton
from kernels.activation import silu_mul_torch, silu_mul_triton
from kernels.attention import paged_attention_reference
from kernels.kv_pages import (
    gather_torch,
    gather_triton,
    scatter_torch,
    scatter_triton,
    store_torch,
    store_triton,
)
from kernels.norm import rms_norm_reference, rms_norm_triton
from kernels.rope import rotate_torch, rotate_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies by numpy, whose rows depend on their place in a tile: there cut at its end.
CUT = 43 if DEVICE == "cuda" else 2 * (attention_triton.BLOCK_M // 3)


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(5, 576), (3, 2, 64), (1, 1), (0, 8)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape, device=DEVICE), torch.randn(shape[-1], device=DEVICE)
    close(rms_norm_triton(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))


@pytest.mark.parametrize(("dim", "rotary"), [(64, 64), (80, 32), (16, 2)])
def test_rope(dim: int, rotary: int) -> None:
    fused = torch.randn(5, 4 * dim, device=DEVICE)
    x, angle = fused[:, dim:].view(5, 3, dim), torch.rand(5, rotary // 2, device=DEVICE)
    close(rotate_triton(x, angle.cos(), angle.sin()), rotate_torch(x, angle.cos(), angle.sin()))


@pytest.mark.parametrize("shape", [(3, 2 * 1536), (2, 2), (1, 2 * 333)])
def test_silu_mul(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, device=DEVICE)
    close(silu_mul_triton(x), silu_mul_torch(x))


def test_store() -> None:
    kv = torch.randn(2, 2, 6, 4, 3, 20, device=DEVICE)
    twin, slots = kv.clone(), torch.tensor([5, 3, 23], device=DEVICE)
    fused = torch.randn(3, 2 * 60, device=DEVICE)
    k, v = fused[:, :60].view(3, 3, 20), fused[:, 60:].view(3, 3, 20)
    store_triton(k, v, kv[1], slots)
    store_torch(k, v, twin[1], slots)
    assert torch.equal(kv, twin)


def test_gather() -> None:
    kv, slots = torch.randn(3, 2, 6, 4, 3, 20, device=DEVICE), torch.tensor([5, 3, 23], device=DEVICE)
    assert torch.equal(gather_triton(kv[1:], slots), gather_torch(kv[1:], slots))


def test_scatter() -> None:
    kv, slots = torch.randn(3, 2, 6, 4, 3, 20, device=DEVICE), torch.tensor([5, 3, 23], device=DEVICE)
    twin, slab = kv.clone(), torch.randn(2, 2, 3, 3, 20, device=DEVICE)
    scatter_triton(kv[1:], slots, slab)
    scatter_torch(twin[1:], slots, slab)
    assert torch.equal(kv, twin)


ATTENTION = [  # Hq, Hkv, D, page size, window
    (9, 3, 64, 16, None),
    (4, 4, 16, 1, None),
    (8, 2, 20, 64, 100),
    (7, 1, 32, 48, 33),
]


@pytest.mark.parametrize(("heads", "kv_heads", "dim", "page_size", "window"), ATTENTION)
def test_attention(heads: int, kv_heads: int, dim: int, page_size: int, window: int | None) -> None:
    world = make_world([90, 70, 1, 600], page_size, kv_heads, dim)
    meta, kv_layer = world.meta([30, 1, 1, 1]), world.kv_layer.to(DEVICE)
    q = torch.randn(33, heads, dim, device=DEVICE)
    got = attention_triton.attend(q, kv_layer, meta, dim**-0.5, window)
    close(got, paged_attention_reference(q, kv_layer, meta, dim**-0.5, window))


def test_a_decode_row_does_not_feel_a_longer_neighbour() -> None:
    world = make_world([70, 600], 16, 1, 16)
    kv_layer, q = world.kv_layer.to(DEVICE), torch.randn(2, 3, 16, device=DEVICE)
    both = attention_triton.attend(q, kv_layer, world.meta([1, 1]), 0.25, None)
    world.page_tables = world.page_tables[:1]
    alone = attention_triton.attend(q[:1], kv_layer, world.meta([1], [70]), 0.25, None)
    assert torch.equal(both[:1], alone)


@pytest.mark.parametrize("window", [None, 50])
def test_a_chunk_does_not_feel_where_it_was_cut(window: int | None) -> None:
    world = make_world([100], 16, 1, 16)
    kv_layer, q = world.kv_layer.to(DEVICE), torch.randn(100, 3, 16, device=DEVICE)
    whole = attention_triton.attend(q, kv_layer, world.meta([100]), 0.25, window)
    first = attention_triton.attend(q[:CUT], kv_layer, world.meta([CUT], [CUT]), 0.25, window)
    second = attention_triton.attend(q[CUT:], kv_layer, world.meta([100 - CUT]), 0.25, window)
    assert torch.equal(torch.cat((first, second)), whole)
