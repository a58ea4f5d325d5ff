"""Moves of KV between rows, pages and slabs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_cases import DEVICE, poison
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels.kv_pages import (
    copy_pages,
    copy_pages_triton,
    gather_torch,
    gather_triton,
    scatter_torch,
    scatter_triton,
    store_torch,
    store_triton,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8]
few = settings(deadline=None, max_examples=12)
slot_lists = st.lists(st.integers(0, 23), min_size=1, max_size=24, unique=True)
rows = st.sampled_from([(1, 1), (3, 20), (2, 7), (8, 128), (5, 64)])  # Hkv, D
dtypes = st.sampled_from(DTYPES)


def noise(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Any bits at all, every kind of NaN among them."""
    return torch.randint(256, (*shape, dtype.itemsize), dtype=torch.uint8, device=DEVICE).view(dtype)[..., 0]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def as_bytes(x: torch.Tensor) -> torch.Tensor:
    """For torch, which cannot index every dtype: the last dimension as bytes."""
    return x.view(torch.uint8)


def index(slots: list[int]) -> torch.Tensor:
    return torch.tensor(slots, device=DEVICE)


@few
@given(slot_lists, rows, dtypes)
def test_gather(slots: list[int], row: tuple[int, int], dtype: torch.dtype) -> None:
    kv = noise(3, 2, 6, 4, *row, dtype=dtype)
    want = gather_torch(as_bytes(kv[1:]), index(slots)).view(dtype)
    assert same(gather_triton(kv[1:], index(slots)), want)
    out = poison(*want.shape, dtype=dtype)
    assert gather_triton(kv[1:], index(slots), out=out) is out
    assert same(out, want)


@few
@given(slot_lists, rows, dtypes)
def test_scatter_writes_its_slots_and_no_others(
    slots: list[int], row: tuple[int, int], dtype: torch.dtype
) -> None:
    kv, slab = noise(3, 2, 6, 4, *row, dtype=dtype), noise(2, 2, len(slots), *row, dtype=dtype)
    twin = kv.clone()
    scatter_triton(kv[1:], index(slots), slab)
    scatter_torch(as_bytes(twin[1:]), index(slots), as_bytes(slab))
    assert same(kv, twin)


@pytest.mark.parametrize(
    "move", [gather_triton, lambda kv, slots: scatter_triton(kv, slots, kv[:, :, 0, :0])]
)
def test_a_move_of_nothing(move) -> None:  # type: ignore[no-untyped-def]
    kv = noise(1, 2, 6, 4, 3, 20, dtype=torch.float32)
    before = kv.clone()
    move(kv, torch.empty(0, dtype=torch.int64, device=DEVICE))
    assert same(kv, before)


def test_rows_more_than_two_to_the_31_integers_apart() -> None:
    if DEVICE == "cpu":
        pytest.skip("too much memory for a machine without a GPU")
    kv = torch.zeros(1, 2, 1 << 16, 16, 1, 2047, dtype=torch.int8, device=DEVICE)  # moved as single bytes
    slots, slab = index([0, (1 << 20) - 1]), noise(1, 2, 2, 1, 2047, dtype=torch.int8)
    scatter_triton(kv, slots, slab)
    assert same(kv[:, :, [0, -1], [0, -1]], slab)
    assert same(gather_triton(kv, slots), slab)


@few
@given(st.permutations(range(6)), st.integers(1, 3), rows, dtypes)
def test_copy_pages(order: list[int], count: int, row: tuple[int, int], dtype: torch.dtype) -> None:
    kv = noise(3, 2, 6, 4, *row, dtype=dtype)
    twin, src, dst = kv.clone(), [order[0]] * count, order[1 : 1 + count]
    copy_pages_triton(kv, index(src), index(dst))
    twin[:, :, dst] = twin[:, :, src]
    assert same(kv, twin)


def test_copy_pages_may_swap_two() -> None:
    kv = noise(2, 2, 6, 4, 3, 20, dtype=torch.int8)
    before = kv.clone()
    copy_pages(kv, [1, 2, 4], [2, 1, 0])
    assert same(kv, before[:, :, [4, 2, 1, 3, 4, 5]])


@few
@given(slot_lists, rows, dtypes)
def test_store(slots: list[int], row: tuple[int, int], dtype: torch.dtype) -> None:
    kv, width = noise(2, 2, 6, 4, *row, dtype=dtype), row[0] * row[1]
    twin, fused = kv.clone(), noise(len(slots), 3 * width, dtype=dtype)
    k, v = (part.view(len(slots), *row) for part in fused.split(width, 1)[1:])
    store_triton(k, v, kv[1], index(slots))
    store_torch(as_bytes(k), as_bytes(v), as_bytes(twin[1]), index(slots))
    assert same(kv, twin)


def launches() -> Iterator[Launch]:
    slots = torch.arange(3)
    for heads, dtype in (8, torch.bfloat16), (4, torch.bfloat16), (8, torch.float8_e4m3fn):
        kv = torch.zeros(2, 2, 6, 16, heads, 128, dtype=torch.uint8).to(dtype)
        slab = torch.zeros(2, 2, 3, heads, 128, dtype=torch.uint8).to(dtype)
        yield Launch(f"gather {heads} {dtype}", lambda kv=kv: gather_triton(kv, slots))
        yield Launch(f"scatter {heads} {dtype}", lambda kv=kv, s=slab: scatter_triton(kv, slots, s))
        yield Launch(f"copy_pages {heads} {dtype}", lambda kv=kv: copy_pages_triton(kv, slots, slots))
        k = slab[0, 0]
        yield Launch(f"store {heads} {dtype}", lambda kv=kv, k=k: store_triton(k, k, kv[0], slots))
