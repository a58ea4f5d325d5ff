from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.autorole import PATIENCE, REST_S, Advice, Autorole, Pressure, Split, Targets

TARGETS = Targets(ttft_ms=2000.0, itl_ms=50.0)
CALM = Pressure(unread=0, prompt=200.0, running=2, read_token_ms=1.0, write_step_ms=8.0, write_row_ms=1.0)
TO_READ = replace(CALM, unread=8000)
TO_WRITE = replace(CALM, running=100)
FREE = Split(2, 2)


def looks(
    autorole: Autorole, times: int, pressure: Pressure, split: Split = FREE, at: float = 100.0
) -> list[Advice | None]:
    return [autorole.look(at + second, split, split, pressure) for second in range(times)]


def test_where_nothing_presses_nothing_moves() -> None:
    assert not any(looks(Autorole(TARGETS), 60, CALM))


@pytest.mark.parametrize(("pressure", "role"), [(TO_READ, "prefill"), (TO_WRITE, "decode")])
def test_a_node_moves_to_where_it_is_missing(pressure: Pressure, role: str) -> None:
    *before, last = looks(Autorole(TARGETS), PATIENCE, pressure)
    assert before == [None] * (PATIENCE - 1)
    assert last is not None
    assert last.role == role


def test_it_says_why_with_both_splits() -> None:
    advice = looks(Autorole(TARGETS), PATIENCE, TO_READ)[-1]
    assert advice is not None
    assert "8000 tokens to read" in advice.why
    assert "2P+2D: TTFT 4200 ms" in advice.why
    assert "3P+1D: TTFT 2867 ms" in advice.why


def test_a_short_burst_moves_nothing() -> None:
    autorole = Autorole(TARGETS)
    for start in range(0, 60, PATIENCE):
        assert not any(looks(autorole, PATIENCE - 1, TO_READ, at=start))
        assert not any(looks(autorole, 1, CALM, at=start + PATIENCE - 1))


def test_between_two_moves_it_rests() -> None:
    said = looks(Autorole(TARGETS), int(3 * REST_S), TO_READ, Split(3, 3))
    moves = [second for second, advice in enumerate(said) if advice is not None]
    assert moves
    assert all(later - earlier >= REST_S for earlier, later in pairwise(moves))


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 100_000),
    st.integers(0, 500),
    st.floats(0.01, 10.0),
    st.floats(0.1, 50.0),
)
def test_it_never_takes_the_last_one_nor_one_that_cannot_move(
    prefill: int, decode: int, unread: int, running: int, read_ms: float, step_ms: float
) -> None:
    pressure = Pressure(unread, 100.0, running, read_ms, step_ms, 1.0)
    split = Split(prefill, decode)
    for movable in (split, Split(0, decode), Split(prefill, 0), Split(0, 0)):
        autorole = Autorole(TARGETS)
        advice = [autorole.look(float(second), split, movable, pressure) for second in range(20)]
        to = {each.role for each in advice if each is not None}
        assert not to & {"decode"} or (prefill > 1 and movable.prefill)
        assert not to & {"prefill"} or (decode > 1 and movable.decode)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 100_000), st.integers(0, 500))
def test_more_nodes_are_never_predicted_to_do_worse(
    prefill: int, decode: int, unread: int, running: int
) -> None:
    pressure = replace(CALM, unread=unread, running=running)
    here = pressure.attainment(Split(prefill, decode), TARGETS)
    assert 0.0 <= here <= pressure.attainment(Split(prefill + 1, decode), TARGETS)
    assert here <= pressure.attainment(Split(prefill, decode + 1), TARGETS) <= 1.0


def test_it_settles_where_a_move_would_be_taken_back() -> None:
    """Whatever presses, the split that it moves to is not one that it leaves again under the same load."""
    for unread in range(0, 20_000, 1000):
        for running in range(0, 120, 10):
            pressure = replace(CALM, unread=unread, running=running)
            autorole, split, moves = Autorole(TARGETS), Split(3, 3), 0
            for second in range(200):
                if advice := autorole.look(float(second), split, split, pressure):
                    step = 1 if advice.role == "prefill" else -1
                    split, moves = Split(split.prefill + step, split.decode - step), moves + 1
            assert moves <= 2
