from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.kv_pages import copy_pages, gather, scatter, store
from kernels.kv_wire import CODE_MAX, gather_quantised, scatter_quantised

PAGES, PAGE_SIZE, HEADS, DIM = 6, 4, 3, 8


def pool(layers: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(layers, 2, PAGES, PAGE_SIZE, HEADS, DIM).to(dtype)


slot_lists = st.lists(st.integers(0, PAGES * PAGE_SIZE - 1), unique=True)


@settings(deadline=None, max_examples=50)
@given(slots=slot_lists, layers=st.sampled_from([None, slice(0, 1), slice(1, 3), slice(0, 3)]))
def test_gather_reads_back_what_scatter_wrote(slots: list[int], layers: slice | None) -> None:
    kv, index = pool(), torch.tensor(slots, dtype=torch.int64)
    slab = torch.randn_like(gather(kv, index, layers))
    scatter(kv, index, slab, layers)
    assert torch.equal(gather(kv, index, layers), slab)


@settings(deadline=None, max_examples=50)
@given(slots=slot_lists)
def test_scatter_touches_no_other_slot_and_no_other_layer(slots: list[int]) -> None:
    kv, index = pool(), torch.tensor(slots, dtype=torch.int64)
    before = kv.clone()
    scatter(kv, index, torch.randn(1, 2, len(slots), HEADS, DIM), slice(1, 2))
    others = torch.tensor([s for s in range(PAGES * PAGE_SIZE) if s not in slots], dtype=torch.int64)
    assert torch.equal(gather(kv, others), gather(before, others))
    assert torch.equal(kv[::2], before[::2])


def test_gather_takes_slots_in_their_order() -> None:
    kv = pool()
    slab = gather(kv, torch.tensor([9, 2]))
    assert slab.is_contiguous()
    assert torch.equal(slab, torch.stack((kv[:, :, 2, 1], kv[:, :, 0, 2]), dim=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_store_writes_keys_and_values_of_one_layer(dtype: torch.dtype) -> None:
    kv = pool(dtype=dtype)
    qkv = torch.randn(2, 4 * HEADS * DIM).to(dtype)  # k and v as slices of a fused tensor
    k, v = qkv[:, 24:48].view(2, HEADS, DIM), qkv[:, 48:72].view(2, HEADS, DIM)
    before = kv.clone()
    store(k, v, kv[1], torch.tensor([5, 3]))
    assert torch.equal(gather(kv, torch.tensor([5, 3]), slice(1, 2))[0], torch.stack((k, v)))
    assert torch.equal(kv[::2], before[::2])


def test_copy_pages_in_every_layer() -> None:
    kv = pool()
    before = kv.clone()
    copy_pages(kv, [1, 4], [0, 5])
    assert torch.equal(kv, before[:, :, [1, 1, 2, 3, 4, 4]])


def test_copy_pages_may_swap_two() -> None:
    kv = pool()
    before = kv.clone()
    copy_pages(kv, [1, 2], [2, 1])
    assert torch.equal(kv, before[:, :, [0, 2, 1, 3, 4, 5]])


def test_copy_of_no_pages_changes_nothing() -> None:
    kv = pool()
    before = kv.clone()
    copy_pages(kv, [], [])
    assert torch.equal(kv, before)


@settings(deadline=None, max_examples=30)
@given(
    slots=slot_lists, dtype=st.sampled_from([torch.float32, torch.bfloat16]), magnitude=st.integers(-20, 20)
)
def test_int8_comes_back_within_half_a_step(slots: list[int], dtype: torch.dtype, magnitude: int) -> None:
    kv, index = (
        (torch.randn(3, 2, PAGES, PAGE_SIZE, HEADS, DIM) * 2.0**magnitude).to(dtype),
        torch.tensor(slots, dtype=torch.int64),
    )
    before = kv.clone()
    codes, scales = gather_quantised(kv, index, torch.int8)
    assert codes.shape == (3, 2, len(slots), HEADS, DIM)
    assert scales.shape == codes.shape[:-1]
    was = gather(kv, index).double()
    assert bool(((codes.double() * scales[..., None] - was).abs() <= 0.501 * scales[..., None]).all())
    assert torch.equal(scales, was.float().abs().amax(-1) / torch.full_like(scales, 127.0))
    scatter_quantised(kv, index, codes, scales)
    assert torch.equal(gather(kv, index), (codes.float() * scales[..., None]).to(dtype))
    others = torch.tensor([s for s in range(PAGES * PAGE_SIZE) if s not in slots], dtype=torch.int64)
    assert torch.equal(gather(kv, others), gather(before, others))


def test_float8_comes_back_within_a_sixteenth() -> None:
    kv, index = pool(), torch.tensor([9, 2, 17])
    was = gather(kv, index)
    codes, scales = gather_quantised(kv, index, torch.float8_e4m3fn)
    difference = (codes.float() * scales[..., None] - was).abs()
    assert bool((difference <= torch.maximum(was.abs() / 16, scales[..., None] / 1024) * 1.001).all())


@pytest.mark.parametrize("code", list(CODE_MAX))
@pytest.mark.parametrize("value", [0.0, 1e-38, -1e-31])
def test_heads_of_nothing_come_back_as_zeros(value: float, code: torch.dtype) -> None:
    kv = torch.full((1, 2, PAGES, PAGE_SIZE, HEADS, DIM), value)
    codes, scales = gather_quantised(kv, torch.tensor([3]), code)
    assert not codes.float().any()
    assert not scales.any()
    scatter_quantised(kv, torch.tensor([3]), codes, scales)
    assert torch.equal(gather(kv, torch.tensor([3])), torch.zeros(1, 2, 1, HEADS, DIM))
