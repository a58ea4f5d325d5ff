from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pagewire.membership.outage import AGAIN_S, Outage


def test_an_outage_is_a_line_when_it_begins_and_one_when_it_ends() -> None:
    outage = Outage("r")
    assert outage.fell(0.0, "why") == "the directory r is away: why; the last known routers stand"
    assert outage.fell(5.0, "why") is None
    assert outage.back(7.0) == "the directory r is back after 7.0 s"
    assert outage.back(8.0) is None


def test_a_long_one_is_told_again() -> None:
    outage = Outage("r")
    outage.fell(0.0, "why")
    assert outage.fell(61.0, "why") == "the directory r is away for 61 s: why; the last known routers stand"


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 30.0)), max_size=60))
def test_however_often_it_comes_and_goes_there_are_few_lines(events: list[tuple[bool, float]]) -> None:
    outage, now, lost, back = Outage("r"), 0.0, [-AGAIN_S], [-AGAIN_S]
    for fell, pause in events:
        now += pause
        line = outage.fell(now, "why") if fell else outage.back(now)
        if line is not None:
            told = lost if fell else back
            assert now - told[-1] >= (AGAIN_S if fell else 0)
            told.append(now)
    assert len(back) <= len(lost)


def test_waits_grow_to_five_seconds_and_are_spread_over_all_of_it() -> None:
    outage = Outage("r")
    longest = []
    for _ in range(12):
        outage.fell(0.0, "why")
        longest.append(outage.wait_s(1.0))
        assert 0 < outage.wait_s(0.0) <= 0.01
    assert longest == sorted(longest)
    assert (longest[0], longest[-1]) == (0.1, 5.0)
    outage.back(1.0)
    outage.fell(2.0, "why")
    assert outage.wait_s(1.0) == 0.1
