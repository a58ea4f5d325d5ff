"""Page-wise moves against the simple ones, whatever the pages, the range and the layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.kv_pages import gather_torch, scatter_torch
from kernels.kv_pages_cpu import Ints, gather_cpu, rows_of, runs_of, scatter_cpu

LAYERS, PAGES, HEADS, DIM = 3, 7, 1, 2
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def pool(page_size: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    shape = (LAYERS, 2, PAGES, page_size, HEADS, DIM)
    return torch.randint(-1000, 1000, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, Ints]:
    """A page size and the slots of tokens [start, stop) of a sequence whose pages lie anywhere."""
    page_size = draw(st.sampled_from([1, 16, 64, 256]))
    table = np.array(draw(st.permutations(range(PAGES)))[: draw(st.integers(1, PAGES))])
    every = (table[:, None] * page_size + np.arange(page_size)).reshape(-1)
    start = draw(st.integers(0, len(every)))  # what the other node has already, or an earlier frame
    return page_size, every[start : draw(st.integers(start, len(every)))]


@st.composite
def scattered(draw: st.DrawFn) -> tuple[int, Ints]:
    """A page size and slots in no order at all, or in one that is almost a range's."""
    page_size, slots = draw(ranges())
    if len(slots) < 2:
        return page_size, slots
    slots = slots.copy()
    for _ in range(draw(st.integers(1, 3))):
        one, two = draw(st.tuples(*[st.integers(0, len(slots) - 1)] * 2))
        slots[[one, two]] = slots[[two, one]]
    return page_size, slots


layer_slices = st.sampled_from([slice(None), slice(0, 1), slice(1, 3), slice(2, 3)])


@settings(deadline=None, max_examples=200)
@given(st.one_of(ranges(), scattered()), layer_slices, st.sampled_from(DTYPES), st.integers(0, 99))
def test_gather_gives_the_bytes_of_the_simple_one(
    world: tuple[int, Ints], layers: slice, dtype: torch.dtype, seed: int
) -> None:
    page_size, slots = world
    kv = pool(page_size, dtype, seed)[layers]
    want = gather_torch(kv, torch.from_numpy(slots)).contiguous()
    out = np.full(want.nbytes + 2, 7, np.uint8)
    gather_cpu(rows_of(kv), slots, page_size, out[1:-1])
    assert out[1:-1].tobytes() == want.view(-1).view(torch.uint8).numpy().tobytes()
    assert out[0] == out[-1] == 7


@settings(deadline=None, max_examples=200)
@given(st.one_of(ranges(), scattered()), layer_slices, st.sampled_from(DTYPES), st.integers(0, 99))
def test_scatter_leaves_the_pages_of_the_simple_one(
    world: tuple[int, Ints], layers: slice, dtype: torch.dtype, seed: int
) -> None:
    page_size, slots = world
    kv, want = pool(page_size, dtype, seed), pool(page_size, dtype, seed)
    slab = pool(page_size, dtype, seed + 100)[layers].flatten(2, 3)[:, :, : len(slots)].contiguous()
    scatter_torch(want[layers], torch.from_numpy(slots), slab)
    data = slab.view(-1).view(torch.uint8).numpy().tobytes()  # memory that nobody may write
    scatter_cpu(rows_of(kv[layers]), slots, page_size, np.frombuffer(data, np.uint8))
    assert torch.equal(kv, want)


@settings(deadline=None)
@given(ranges())
def test_a_range_moves_in_whole_pages(world: tuple[int, Ints]) -> None:
    page_size, slots = world
    runs = runs_of(slots, page_size)
    assert runs.unit == page_size
    assert len(slots) - len(runs.pages) * page_size <= 2 * (page_size - 1)


@pytest.mark.parametrize(
    "slots",
    [
        [4, 5, 6, 8],  # a hole in a page
        [4, 5, 6, 7, 9, 10, 11, 12],  # a page's worth of slots across two pages
        [5, 4, 8, 9, 10, 11],  # disorder before the first whole page
        [4, 5, 6, 7, 9, 8],  # and behind the last one
        [7, 6, 5, 4],
    ],
)
def test_slots_that_are_no_range_move_one_by_one(slots: list[int]) -> None:
    assert runs_of(np.array(slots), 4).unit == 1


@pytest.mark.parametrize("slot", [-1, PAGES * 16])
def test_a_slot_outside_is_our_own_mistake(slot: int) -> None:
    kv = pool(16, torch.float32, 0)
    with pytest.raises(AssertionError):
        gather_cpu(rows_of(kv), np.array([slot]), 16, np.zeros(kv[:, :, 0, 0].nbytes, np.uint8))
