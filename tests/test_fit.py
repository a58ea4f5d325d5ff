from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.fit import Fit

part = st.floats(0.01, 10)


@given(st.tuples(part, part, part))
@settings(deadline=None)
def test_it_predicts_what_it_saw(law: tuple[float, float, float]) -> None:
    fit, seen = Fit(1.0, 5.0, 5.0), [(float(a), a * a / 3) for a in range(1, 30)]
    for a, b in seen:
        fit.saw((1.0, a, b), law[0] + law[1] * a + law[2] * b)
    weights = fit.weights()
    for a, b in seen:
        told = weights[0] + weights[1] * a + weights[2] * b
        assert told == pytest.approx(law[0] + law[1] * a + law[2] * b, rel=0.02)


@given(st.lists(st.tuples(part, part, st.floats(0.001, 1e6)), max_size=40))
@settings(deadline=None)
def test_weights_are_never_negative_whatever_was_seen(seen: list[tuple[float, float, float]]) -> None:
    fit = Fit(1.0, 5.0, 5.0)
    for a, b, y in seen:
        fit.saw((1.0, a, b), y)
    assert min(fit.weights()) >= 0


def test_nothing_seen_weighs_nothing() -> None:
    assert Fit(1.0, 2.0).weights() == [0.0, 0.0]


def test_the_past_fades() -> None:
    fit = Fit(1.0)
    for y in [1.0] * 1000 + [2.0] * 3000:
        fit.saw((1.0,), y)
    assert fit.weights()[0] == pytest.approx(2.0, rel=0.01)


def test_a_law_that_was_seen_at_one_point_holds_there() -> None:
    fit = Fit(1.0, 100.0, 100.0)
    for _ in range(50):
        fit.saw((1.0, 512.0, 131.0), 600.0)
    weights = fit.weights()
    assert weights[0] + 512 * weights[1] + 131 * weights[2] == pytest.approx(600.0, rel=0.01)
