from __future__ import annotations

from pagewire.stopping import SETTLE_S, Stopping


def told(grace_s: float = 30.0, at: float = 10.0) -> Stopping:
    stopping = Stopping(grace_s)
    stopping.told()
    assert stopping.begins(at)
    return stopping


def test_without_a_signal_it_goes_on() -> None:
    stopping = Stopping(0.0)
    assert not stopping.begins(10.0)
    assert not stopping.over(10.0, idle=True)


def test_it_begins_once() -> None:
    assert not told().begins(11.0)


def test_with_nothing_in_hand_it_is_over_once_others_have_heard() -> None:
    stopping = told()
    assert not stopping.over(10.0, idle=True)
    assert stopping.over(10.0 + SETTLE_S, idle=True)


def test_what_is_in_hand_has_so_much_time() -> None:
    stopping = told()
    assert not stopping.over(39.9, idle=False)
    assert stopping.over(40.0, idle=False)


def test_a_second_signal_does_not_wait() -> None:
    stopping = told()
    stopping.told()
    assert stopping.over(10.1, idle=False)
