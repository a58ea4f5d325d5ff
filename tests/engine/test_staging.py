"""The pinned path with the CUDA-only calls absent, and with events that have not passed yet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pagewire.engine.kv_cache import KVCache
from pagewire.engine.staging import HostPages, PinnedPages, handoff_pages
from pagewire.layout import KVLayout

LAYOUT = KVLayout(layers=4, kv_heads=2, head_dim=8, dtype="float16", model="m")
SLOTS, LAYERS = np.array([5, 6, 7, 20, 21]), slice(1, 3)
SIZE = 2 * 2 * 5 * 2 * 8 * 2  # layers, K and V, tokens, heads, head_dim, bytes


class Pending:
    """An event that has not passed until it is waited for."""

    passed = False

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.passed = True


def filled() -> KVCache:
    cache = KVCache(LAYOUT, num_pages=4, page_size=8)
    cache.pages.copy_(torch.randn(cache.pages.shape).half())
    return cache


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


def test_a_pinned_copy_holds_what_the_pages_held_when_it_began() -> None:
    cache = filled()
    before, copy = bytes(cache.read(SLOTS, LAYERS)), PinnedPages(cache).begin(SLOTS, LAYERS)
    cache.pages.zero_()
    out = memoryview(bytearray(SIZE))
    assert copy is not None
    copy.take(out)
    assert out == before


def test_no_more_copies_are_under_way_than_there_are_buffers() -> None:
    pages = PinnedPages(filled(), buffers=2)
    first, second = pages.begin(SLOTS, LAYERS), pages.begin(SLOTS, LAYERS)
    assert first is not None
    assert second is not None
    assert pages.begin(SLOTS, LAYERS) is None
    second.drop()
    second.drop()
    assert pages.begin(SLOTS, LAYERS) is not None
    assert pages.begin(SLOTS, LAYERS) is None


def test_a_dropped_buffer_is_not_used_again_before_its_copy_is_done() -> None:
    pages = PinnedPages(filled(), buffers=1)
    copy, event = pages.begin(SLOTS, LAYERS), Pending()
    assert copy is not None
    pages_buffer = copy._buffer
    assert pages_buffer is not None
    pages_buffer.event = event  # type: ignore[assignment]
    assert not copy.ready()
    copy.drop()
    assert pages.begin(SLOTS, LAYERS) is None
    event.passed = True
    assert pages.begin(SLOTS, LAYERS) is not None


def test_what_is_written_waits_for_the_buffer_that_it_passes_through() -> None:
    pages, data, event = PinnedPages(filled()), bytes(SIZE), Pending()
    pages._in[0].event = event  # type: ignore[assignment]
    pages.write(SLOTS, LAYERS, data)
    assert event.passed


def test_the_cpu_stages_nothing() -> None:
    assert isinstance(handoff_pages(filled()), HostPages)
