from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.slab import Coverage, Cursor, Part
from pagewire.errors import LocalProtocolError
from pagewire.layout import KVLayout

LAYOUT = KVLayout(3, 1, 2, "float16", "m")  # 8 bytes a layer and token, 24 a token
PLENTY = 1 << 30


def _walk(cursor: Cursor, ready: list[int], credit: int = PLENTY) -> list[Part]:
    parts = []
    while (part := cursor.next(ready, credit, idle=True)) is not None:
        parts.append(part)
        cursor.advance(part)
    return parts


@given(st.integers(0, 9), st.integers(0, 20), st.integers(8, 100), st.integers(0, 12), st.integers(1, 4))
def test_frames_cover_every_cell_once_and_fit(
    start: int, more: int, frame: int, chunk: int, group: int
) -> None:
    stop = start + more
    cursor, coverage = Cursor(LAYOUT, start, stop, frame, group), Coverage(LAYOUT, start, stop)
    ready = [0, 0, 0]
    for computed in [*range(0, stop, chunk + 1), stop]:
        for layer in range(3):
            ready[layer] = computed
            for part in _walk(cursor, ready):
                assert part.token_stop <= min(ready[part.layers])
                assert part.nbytes(LAYOUT) <= frame
                assert part.layer_stop - part.layer_start <= group
                assert not coverage.overlaps(part)
                coverage.add(part)
    assert coverage.missing == 0
    assert cursor.done


def test_frames_end_with_a_page_where_they_can() -> None:
    parts = _walk(Cursor(LAYOUT, 10, 500, 200 * 24, 3), [500, 500, 500])
    assert [part.token_stop for part in parts] == [192, 384, 500]


def test_a_group_goes_when_its_last_layer_is_there() -> None:
    cursor = Cursor(LAYOUT, 0, 4, 96, 2)
    assert _walk(cursor, [4, 0, 0]) == []
    assert _walk(cursor, [4, 4, 0]) == [Part(0, 4, 0, 2)]
    assert _walk(cursor, [4, 4, 4]) == [Part(0, 4, 2, 3)]


def test_a_token_that_is_larger_than_a_frame_goes_by_layers() -> None:
    assert _walk(Cursor(LAYOUT, 5, 6, 16, 3), [6, 6, 6]) == [Part(5, 6, 0, 2), Part(5, 6, 2, 3)]


def test_a_part_that_did_not_go_is_the_next_one_again() -> None:
    cursor = Cursor(LAYOUT, 0, 4, 96, 2)
    part = cursor.next([4, 4, 4], PLENTY, idle=True)
    assert part is not None
    cursor.advance(part)
    cursor.retreat(part)
    assert cursor.next([4, 4, 4], PLENTY, idle=True) == part


def test_a_frame_cut_short_by_credit_waits_while_others_are_in_flight() -> None:
    assert Cursor(LAYOUT, 0, 4, 96, 3).next([4, 4, 4], 72, idle=False) is None


def test_a_frame_cut_short_by_credit_goes_if_nothing_is_in_flight() -> None:
    assert Cursor(LAYOUT, 0, 4, 96, 3).next([4, 4, 4], 72, idle=True) == Part(0, 3, 0, 3)


@pytest.mark.parametrize("idle", [True, False])
def test_no_credit_no_frame(idle: bool) -> None:
    assert Cursor(LAYOUT, 0, 4, 96, 3).next([4, 4, 4], 23, idle=idle) is None


def test_frames_too_small_for_one_layer_are_refused() -> None:
    with pytest.raises(LocalProtocolError):
        Cursor(LAYOUT, 0, 4, 7, 3)


@pytest.mark.parametrize("part", [Part(1, 3, 0, 3), Part(2, 9, 0, 3), Part(2, 3, 0, 4)])
def test_a_part_outside_is_known_as_such(part: Part) -> None:
    assert not Coverage(LAYOUT, 2, 8).contains(part)


def test_a_part_that_only_touches_another_overlaps_it() -> None:
    coverage = Coverage(LAYOUT, 0, 8)
    coverage.add(Part(2, 4, 1, 2))
    assert coverage.overlaps(Part(0, 8, 0, 3))
    assert not coverage.overlaps(Part(0, 8, 0, 1))
