from __future__ import annotations

from pagewire.cli.restarts import MAX_FAILURES, Restarts


def test_waits_double_up_to_a_limit_and_then_it_gives_up() -> None:
    record = Restarts()
    assert [record.died(0.5) for _ in range(MAX_FAILURES)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, None]


def test_a_long_life_forgives_what_was_before() -> None:
    record = Restarts(failures=6)
    assert record.died(30.0) == 0.1


def test_a_short_life_does_not() -> None:
    record = Restarts(failures=3)
    assert record.died(29.9) == 0.8
