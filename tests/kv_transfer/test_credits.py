from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.credits import CreditPool
from kv_transfer.limits import Limits
from pagewire.errors import ConfigError

LIMITS = Limits(max_open=4, frame_bytes=10, credit_bytes=35, inflight_bytes=60)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.sampled_from("otc"), st.integers(0, 120)), max_size=60))
def test_credit_is_conserved_bounded_and_never_runs_dry(steps: list[tuple[str, int]]) -> None:
    pool, windows = CreditPool(LIMITS), []
    for step, n in steps:
        if step == "o" and len(windows) < LIMITS.max_open:
            windows.append(pool.open(n))
        elif windows and step == "t":
            window = windows[n % len(windows)]
            pool.take(window, min(n, window.held))
        elif windows and step == "c":
            pool.close(windows.pop(n % len(windows)))
        assert pool.used == sum(w.held for w in windows) <= LIMITS.inflight_bytes
        assert all(w.taken <= w.allowed <= w.need for w in windows)
        assert all(w.held <= LIMITS.credit_bytes for w in windows)
        assert all(w.held >= min(LIMITS.frame_bytes, w.need - w.taken) for w in windows)


def test_an_idle_transfer_holds_one_frame() -> None:
    assert CreditPool(LIMITS).open(100).held == 10


def test_an_active_transfer_gets_what_is_left_over() -> None:
    pool = CreditPool(LIMITS)
    window = pool.open(100)
    pool.take(window, 10)
    assert window.held == 60 - 3 * 10


@pytest.mark.parametrize(
    "wrong", [{"max_open": 0}, {"frame_bytes": 0}, {"frame_bytes": 36}, {"inflight_bytes": 39}]
)
def test_limits_that_could_starve_a_transfer_are_refused(wrong: dict[str, int]) -> None:
    numbers = {"max_open": 4, "frame_bytes": 10, "credit_bytes": 35, "inflight_bytes": 60}
    with pytest.raises(ConfigError):
        Limits(**(numbers | wrong))


def test_by_default_a_transfer_whose_frames_come_in_gets_all_the_credit_that_one_may_have() -> None:
    limits = Limits()
    pool = CreditPool(limits)
    window = pool.open(1 << 30)
    pool.take(window, window.held)
    assert window.held == limits.credit_bytes
