from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.slab import Coverage, Cursor, Part
from pagewire.errors import LocalProtocolError
from pagewire.layout import KVLayout

LAYOUT = KVLayout(3, 1, 2, "float16", "m")  # 8 bytes a layer and token, 24 a token


def _walk(cursor: Cursor, computed: int, credit: int) -> list[Part]:
    parts = []
    while (part := cursor.next(computed, credit, idle=True)) is not None:
        parts.append(part)
        cursor.advance(part)
    return parts


@given(st.integers(0, 9), st.integers(0, 20), st.integers(8, 100), st.integers(0, 12))
def test_frames_cover_every_cell_once_and_fit(start: int, more: int, frame: int, chunk: int) -> None:
    stop = start + more
    cursor, coverage = Cursor(LAYOUT, start, frame), Coverage(LAYOUT, start, stop)
    for computed in [*range(0, stop, chunk + 1), stop]:
        for part in _walk(cursor, computed, 1 << 30):
            assert part.token_stop <= computed
            assert part.nbytes(LAYOUT) <= frame
            assert not coverage.overlaps(part)
            coverage.add(part)
    assert coverage.missing == 0
    assert cursor.token == stop


def test_a_token_that_is_larger_than_a_frame_goes_by_layers() -> None:
    assert _walk(Cursor(LAYOUT, 5, 16), 6, 1 << 30) == [Part(5, 6, 0, 2), Part(5, 6, 2, 3)]


def test_a_frame_cut_short_by_credit_waits_while_others_are_in_flight() -> None:
    assert Cursor(LAYOUT, 0, 96).next(4, 72, idle=False) is None


def test_a_frame_cut_short_by_credit_goes_if_nothing_is_in_flight() -> None:
    assert Cursor(LAYOUT, 0, 96).next(4, 72, idle=True) == Part(0, 3, 0, 3)


@pytest.mark.parametrize("idle", [True, False])
def test_no_credit_no_frame(idle: bool) -> None:
    assert Cursor(LAYOUT, 0, 96).next(4, 23, idle=idle) is None


def test_frames_too_small_for_one_layer_are_refused() -> None:
    with pytest.raises(LocalProtocolError):
        Cursor(LAYOUT, 0, 7)


@pytest.mark.parametrize("part", [Part(1, 3, 0, 3), Part(2, 9, 0, 3), Part(2, 3, 0, 4)])
def test_a_part_outside_is_known_as_such(part: Part) -> None:
    assert not Coverage(LAYOUT, 2, 8).contains(part)


def test_a_part_that_only_touches_another_overlaps_it() -> None:
    coverage = Coverage(LAYOUT, 0, 8)
    coverage.add(Part(2, 4, 1, 2))
    assert coverage.overlaps(Part(0, 8, 0, 3))
    assert not coverage.overlaps(Part(0, 8, 0, 1))
