"""The pinned path: on a device that does things as late and disorderly as it may, and on none."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from staging_device import (
    Device,
    Place,
    Use,
    pages_come_in,
    pages_go_out,
    slabs_are_borrowed,
    slabs_are_lent,
)

from pagewire.engine import staging_buffer
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import HostPages, PinnedPages, handoff_pages
from pagewire.engine.staging_lane import Queue
from pagewire.layout import KVLayout

LAYOUT = KVLayout(layers=4, kv_heads=2, head_dim=8, dtype="float16", model="m")
SLOTS, LAYERS = np.array([5, 6, 7, 20, 21]), slice(1, 3)
SIZE = 2 * 2 * 5 * 2 * 8 * 2  # layers, K and V, tokens, heads, head_dim, bytes
Story = Callable[..., Device]

# All that orders anything: each is needed, and there is no other. ASKED is asked for other reasons.
ORDER: dict[Story, set[Use]] = {
    pages_go_out: {
        ("computed", "passed"),
        ("gathered", "COPIES"),
        ("arrived", "wait"),
        ("brought", "wait"),
    },
    pages_come_in: {("copied", "COMPUTE"), ("copied", "wait"), ("scattered", "COPIES"), ("brought", "wait")},
    slabs_are_lent: {("computed", "passed"), ("read", "passed"), ("brought", "wait")},
    slabs_are_borrowed: {("copied", "wait"), ("scattered", "MOVES"), ("brought", "wait")},
}
ASKED = {("arrived", "passed"), ("unmapped", "wait")}


def filled() -> KVCache:
    cache = KVCache(LAYOUT, num_pages=4, page_size=8)
    cache.pages.copy_(torch.randn(cache.pages.shape).half())
    return cache


def pinned(cache: KVCache, device: Device | None = None, **sizes: int) -> PinnedPages:
    return PinnedPages(cache, device, size=2 * SIZE, **sizes)


def lazy() -> Device:
    """Does nothing before it is waited for."""
    return Device(Random(0), eager=0.0)


@pytest.mark.parametrize("story", ORDER)
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_whatever_the_device_does_first_the_bytes_are_right(story: Story, seed: int) -> None:
    assert story(Random(seed)).used <= ORDER[story] | ASKED


@pytest.mark.parametrize(("story", "use"), [(story, use) for story, uses in ORDER.items() for use in uses])
def test_without_any_one_of_the_fences_they_are_not(story: Story, use: Use) -> None:
    def fails(seed: int) -> bool:
        try:
            story(Random(seed), use, turns=60)
        except AssertionError:
            return True
        return False

    assert any(fails(seed) for seed in range(300))


@pytest.mark.parametrize("kind", [HostPages, PinnedPages])
def test_a_slab_goes_from_pages_to_pages(kind: type[HostPages | PinnedPages]) -> None:
    source, target = filled(), KVCache(LAYOUT, num_pages=4, page_size=8)
    out = memoryview(bytearray(SIZE))
    copy = kind(source).begin(SLOTS, LAYERS)
    assert copy is not None
    assert copy.ready()
    copy.take(out)
    kind(target).write(SLOTS, LAYERS, out)
    assert target.read(SLOTS, LAYERS) == source.read(SLOTS, LAYERS) == out
    assert not any(target.read(SLOTS, slice(0, 1)))


def test_what_is_computed_goes_out_whatever_is_still_to_be_computed() -> None:
    device, cache = lazy(), filled()
    pages = pinned(cache, device)
    out = bytearray(SIZE)
    device.hold(Queue.COMPUTE, Place())  # for ever
    device.run(Queue.COMPUTE, cache.pages.zero_)
    copy = pages.begin(SLOTS, LAYERS)
    assert copy is not None
    copy.take(memoryview(out))
    assert out == cache.read(SLOTS, LAYERS)


def test_no_more_copies_are_under_way_than_there_are_buffers() -> None:
    pages = pinned(filled(), out=2)
    first, second = pages.begin(SLOTS, LAYERS), pages.begin(SLOTS, LAYERS)
    assert first is not None
    assert second is not None
    assert pages.begin(SLOTS, LAYERS) is None
    second.drop()
    second.drop()
    assert pages.begin(SLOTS, LAYERS) is not None
    assert pages.begin(SLOTS, LAYERS) is None


def test_a_dropped_buffer_is_not_used_again_before_its_copy_is_done() -> None:
    device = lazy()
    pages = pinned(filled(), device, out=1)
    copy = pages.begin(SLOTS, LAYERS)
    assert copy is not None
    assert not copy.ready()
    copy.drop()
    assert pages.begin(SLOTS, LAYERS) is None
    device.finish()
    assert pages.begin(SLOTS, LAYERS) is not None


def test_nothing_that_goes_out_waits_for_the_device_but_take() -> None:
    device = lazy()
    pages = pinned(filled(), device)
    assert all(pages.begin(SLOTS, LAYERS) for _ in range(8))
    assert device.waits == 0


def test_what_comes_in_waits_only_for_the_buffer_that_it_passes_through() -> None:
    device = lazy()
    pages, cache = pinned(filled(), device, into=2), filled()
    body = cache.read(SLOTS, LAYERS)
    pages.write(SLOTS, LAYERS, body)
    pages.landing(SIZE)[:] = body
    pages.write(SLOTS, LAYERS, pages.landing(SIZE))
    assert device.waits == 0
    pages.write(SLOTS, LAYERS, body)
    assert device.waits == 1


def test_what_landed_where_it_can_be_sent_on_from_is_not_copied_by_the_host() -> None:
    device, cache = lazy(), filled()
    body = bytes(cache.read(SLOTS, LAYERS))
    cache.pages.zero_()
    pages = pinned(cache, device)
    landed = pages.landing(SIZE)
    pages.write(SLOTS, LAYERS, landed)
    landed[:] = body  # later than allowed: seen, since it was not copied away
    device.finish()
    assert cache.read(SLOTS, LAYERS) == body


def test_slots_are_brought_once_for_all_groups_of_layers() -> None:
    """Out: gather, set, hold, copy, set. In: hold, copy, set, hold, scatter, set. And two for new slots."""
    device = lazy()
    pages = pinned(filled(), device)
    calls = [0]
    for layers in (slice(0, 2), slice(2, 4)):
        assert pages.begin(SLOTS, layers) is not None
        calls.append(device.calls)
    for layers in (slice(0, 2), slice(2, 4)):
        pages.write(SLOTS, layers, bytes(SIZE))
        calls.append(device.calls)
    assert np.diff(calls).tolist() == [7, 5, 8, 6]


def test_slots_that_were_brought_long_ago_make_room_for_others() -> None:
    cache = filled()
    pages = pinned(cache, indices=2, out=1)
    for first in (0, 1, 2, 0, 2, 1):
        slots, out = np.arange(first, first + 5), bytearray(SIZE)
        copy = pages.begin(slots, LAYERS)
        assert copy is not None
        copy.take(memoryview(out))
        assert out == cache.read(slots, LAYERS)


def test_warming_up_leaves_pages_as_they_are() -> None:
    cache = filled()
    before = cache.pages.clone()
    pinned(cache).warm_up()
    assert torch.equal(cache.pages, before)


def test_the_cpu_stages_nothing() -> None:
    assert isinstance(handoff_pages(filled()), HostPages)


def test_a_queue_runs_in_order_and_stands_where_it_is_held() -> None:
    """The device of these tests."""
    device, done = lazy(), []
    fence = device.fence("x")
    device.run(Queue.COMPUTE, lambda: done.append("kernel"))
    fence.set(Queue.COMPUTE)
    fence.hold(Queue.COPIES)
    device.run(Queue.COPIES, lambda: done.append("copy"))
    device._favoured = Queue.COPIES
    device.finish()
    assert done == ["kernel", "copy"]


def test_slabs_pass_within_a_step_and_outside() -> None:
    """A step computes in inference mode, in which other tensors are made."""
    cache, out = filled(), bytearray(SIZE)
    pages = pinned(cache)
    for within in (True, False, True):
        with torch.inference_mode(within):
            copy = pages.begin(SLOTS, LAYERS)
            assert copy is not None
            copy.take(memoryview(out))
            pages.write(SLOTS + 8, LAYERS, out)
            pages.write(SLOTS + 8, LAYERS, pages.landing(SIZE))
    assert len(out) == SIZE


def test_shapes_beyond_those_that_are_kept_pass_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_buffer, "_SHAPES", 2)
    cache = filled()
    pages = pinned(cache, out=1)
    for number in range(40):
        slots, layers = np.arange(1 + number % 5), slice(number % 4, 4)
        copy = pages.begin(slots, layers)
        assert copy is not None
        out = bytearray(len(cache.read(slots, layers)))
        copy.take(memoryview(out))
        assert out == cache.read(slots, layers)
