"""Paged attention, of chunks and of single rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from attention_world import make_world
from gpu_cases import DEVICE, close
from offline_gpu import Launch

from kernels import attention_triton
from kernels.attention import paged_attention_reference

# The interpreter multiplies by numpy, whose rows depend on their place in a tile: there cut at its end.
CUT = 43 if DEVICE == "cuda" else 2 * (64 // 3)

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


def launches() -> Iterator[Launch]:
    world = make_world([900, 70], 16, 8, 128)
    meta, kv = world.meta([300, 1]), world.kv_layer.bfloat16()
    q = torch.zeros(301, 32, 128, dtype=torch.bfloat16)
    yield Launch("attention", lambda: attention_triton.attend(q, kv, meta, 0.1, None), tensor_cores=True)
