"""The pinned path on a GPU, whose streams are late on purpose. Without one it is walked without a device."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import PinnedPages
from pagewire.engine.staging_lane import Queue
from pagewire.layout import KVLayout

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
LAYOUT = KVLayout(layers=6, kv_heads=2, head_dim=32, dtype="bfloat16", model="m")
SLOTS = 1024


def some_kv(seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(LAYOUT.slab_shape(SLOTS), generator=random).bfloat16().to(DEVICE)


def cache_of(kv: torch.Tensor, page_size: int) -> KVCache:
    cache = KVCache(LAYOUT, SLOTS // page_size, page_size, DEVICE)
    cache.pages.copy_(kv.view(cache.pages.shape))
    return cache


def finish() -> None:
    if GPU:
        torch.cuda.synchronize()


def allocations() -> int:
    return int(torch.cuda.memory_stats()["allocation.all.allocated"])


def make_late(pages: PinnedPages, queue: Queue) -> None:
    if GPU:
        pages.lane.run(queue, lambda: torch.cuda._sleep(10_000_000))


@pytest.mark.parametrize("late", Queue)
def test_a_late_queue_changes_nothing_of_what_is_read(late: Queue) -> None:
    """Pages are read as soon as the kernel that writes them is done."""
    kv = some_kv(3)
    cache = cache_of(torch.zeros_like(kv), 16)
    pages = PinnedPages(cache, out=4, size=1 << 20)
    slots, wanted = np.arange(5, 105), kv[:, :, 5:105].contiguous().view(torch.uint8).cpu().flatten()
    make_late(pages, late)
    cache.pages.copy_(kv.view(cache.pages.shape))
    mark = pages.mark()
    while not mark.passed():
        pass
    copies = [pages.begin(slots, slice(at, at + 1)) for at in range(3)]
    got = []
    for copy in copies:
        assert copy is not None
        out = bytearray(len(wanted) // LAYOUT.layers)
        copy.take(memoryview(out))
        got.append(bytes(out))
    assert b"".join(got) == wanted.numpy().tobytes()[: sum(map(len, got))]


@pytest.mark.parametrize("late", Queue)
@pytest.mark.parametrize("landed", [False, True])
def test_a_late_queue_changes_nothing_of_what_is_written(late: Queue, landed: bool) -> None:
    """More frames than buffers, each from memory that is used again at once; kernels before them still write
    to the same pages.
    """
    cache = cache_of(kv := some_kv(4), 16)
    pages, wanted = PinnedPages(cache, into=2, size=1 << 20), kv.clone()
    for turn in range(7):
        slots = np.random.default_rng(turn).permutation(SLOTS)[:100]
        body = np.random.default_rng(turn).integers(0, 0x3F, 100 * LAYOUT.token_bytes, np.uint8)
        make_late(pages, late)
        cache.pages.mul_(2)
        room = pages.landing(len(body)) if landed else memoryview(bytearray(len(body)))
        room[:] = body.data
        pages.write(slots, slice(None), room)
        if not landed:
            room[:] = bytes(len(body))
        slab = torch.from_numpy(body).view(torch.bfloat16).view(LAYOUT.slab_shape(100)).to(DEVICE)
        wanted.mul_(2)[:, :, torch.from_numpy(slots).to(DEVICE)] = slab
    finish()
    same = cache.pages.view(torch.uint8) == wanted.view(cache.pages.shape).view(torch.uint8)
    assert bool(same.all())


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_nothing_waits_for_a_stream_that_stands() -> None:
    """What was computed before goes out, and what comes in is queued, in a fraction of a second."""
    pages = PinnedPages(cache_of(kv := some_kv(5), 16))
    pages.warm_up()
    slots, body = np.arange(100), bytearray(100 * LAYOUT.token_bytes)
    wanted = kv[:, :, :100].contiguous().view(torch.uint8).cpu().numpy().tobytes()
    finish()
    torch.cuda._sleep(2_000_000_000)
    began = time.perf_counter()
    late = pages.mark()
    copy = pages.begin(slots, slice(None))
    for _ in range(8):
        pages.write(slots, slice(None), body)
    assert copy is not None
    copy.take(memoryview(body))
    assert time.perf_counter() - began < 0.3
    assert not late.passed()
    assert body == wanted


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_host_memory_is_pinned_and_no_chunk_allocates() -> None:
    pages = PinnedPages(cache_of(some_kv(6), 16), out=2, into=2)
    assert pages.lane.host(64).is_pinned()
    pages.warm_up()
    before, body = allocations(), bytearray(100 * LAYOUT.token_bytes)
    for first in range(20):
        copy = pages.begin(np.arange(first, first + 100), slice(None))
        assert copy is not None
        copy.take(memoryview(body))
        pages.write(np.arange(first, first + 100), slice(None), body)
    assert allocations() == before
