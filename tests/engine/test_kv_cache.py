"""KV memory: slabs in and out, page copies, and how many pages fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.engine.kv_cache import KVCache, pages_for
from pagewire.errors import ConfigError
from pagewire.layout import KVLayout

LAYOUT = KVLayout(layers=3, kv_heads=2, head_dim=4, dtype="float32", model="m")
DTYPES = ["float32", "bfloat16", "float16"]


def layout(dtype: str) -> KVLayout:
    return KVLayout(3, 2, 4, dtype, "m")


def filled(dtype: str = "float32", pages: int = 5, page_size: int = 4) -> KVCache:
    cache = KVCache(layout(dtype), pages, page_size)
    cache.pages.copy_(torch.arange(cache.pages.numel()).view(cache.pages.shape) % 251)
    return cache


def test_memory_begins_as_zeros() -> None:
    assert not KVCache(LAYOUT, 5, 4).pages.any()


def test_memory_that_is_not_used_is_not_committed() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    cache = KVCache(LAYOUT, 1 << 17, 16)
    assert cache.pages.nbytes > 400e6
    assert resident() - before < 50e6


@pytest.mark.parametrize("dtype", DTYPES)
def test_slab_has_the_wire_order(dtype: str) -> None:
    cache, slots = filled(dtype), np.array([17, 2, 6])
    slab = torch.frombuffer(cache.read(slots), dtype=torch.uint8).view(cache.pages.dtype).view(3, 2, 3, 2, 4)
    for row, slot in enumerate(slots.tolist()):
        assert torch.equal(slab[:, :, row], cache.pages[:, :, slot // 4, slot % 4])


@given(
    slots=st.lists(st.integers(0, 19), unique=True, max_size=20),
    layers=st.sampled_from([slice(None), slice(0, 1), slice(1, 3)]),
    dtype=st.sampled_from(DTYPES),
)
@settings(deadline=None)
def test_write_inverts_read(slots: list[int], layers: slice, dtype: str) -> None:
    source, target = filled(dtype), KVCache(layout(dtype), 5, 4)
    at = np.array(slots, np.int64)
    target.write(at, layers, source.read(at, layers).tobytes())
    assert target.read(at, layers).tobytes() == source.read(at, layers).tobytes()


def test_write_touches_its_own_slots_and_layers_only() -> None:
    source, target = filled(), KVCache(LAYOUT, 5, 4)
    at = np.array([3, 9])
    target.write(at, slice(1, 2), source.read(at, slice(1, 2)))
    target.pages[1, :, [0, 2], [3, 1]] = 0
    assert not target.pages.any()


def test_read_is_a_copy() -> None:
    cache = filled()
    slab = np.frombuffer(cache.read(np.array([0])), np.uint8)
    cache.pages.zero_()
    assert slab.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layers", [slice(None), slice(1, 3)])
@pytest.mark.parametrize("slots", [[17, 2, 6], []])
def test_reading_into_memory_gives_the_same_bytes(dtype: str, layers: slice, slots: list[int]) -> None:
    cache, at = filled(dtype), np.array(slots, np.int64)
    expected = cache.read(at, layers).tobytes()
    out = bytearray(len(expected))
    cache.read_into(at, layers, memoryview(out))
    assert out == expected


def test_memory_that_was_read_into_is_not_held() -> None:
    out = bytearray(LAYOUT.token_bytes)
    filled().read_into(np.array([3]), slice(None), memoryview(out))
    out.clear()


def test_slabs_pass_between_page_sizes() -> None:
    source, target = filled(page_size=4), KVCache(LAYOUT, 3, 8)
    slab = source.read(np.arange(4, 12))
    target.write(np.arange(3, 11), slice(None), memoryview(slab))
    assert target.read(np.arange(3, 11)).tobytes() == slab.tobytes()


def test_copied_pages_are_equal_and_the_rest_is_as_before() -> None:
    cache, before = filled(), filled().pages
    cache.copy_pages([(0, 3), (1, 4)])
    assert torch.equal(cache.pages[:, :, [3, 4]], before[:, :, [0, 1]])
    assert torch.equal(cache.pages[:, :, :3], before[:, :, :3])


def test_copying_no_page_is_nothing() -> None:
    cache = filled()
    cache.copy_pages([])
    assert torch.equal(cache.pages, filled().pages)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pages_for_fills_the_memory_and_no_more(dtype: str) -> None:
    one = KVCache(layout(dtype), 1, 4).pages.nbytes
    assert [pages_for(one * 3 + extra, layout(dtype), 4) for extra in (-1, 0, one - 1)] == [2, 3, 3]


def test_memory_too_small_for_a_page_is_refused() -> None:
    with pytest.raises(ConfigError, match="hold no page"):
        pages_for(100, LAYOUT, 16)
