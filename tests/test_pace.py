from __future__ import annotations

import pytest

from pagewire.engine.engine import Computed
from pagewire.engine.sequence import Sequence
from pagewire.messages import RequestId
from pagewire.pace import Pace
from pagewire.rates import HANDING, NAMES, READING, WRITING, told
from pagewire.sampling import SamplingParams


def sequence(prompt: int, output: int) -> Sequence:
    tokens = list(range(prompt + output))
    return Sequence(RequestId("r"), 0, [0], tokens, prompt, SamplingParams(), 0, 9999)


def read(start: int, end: int) -> Computed:
    return Computed(sequence(end, 0), start, end, [])


def write() -> Computed:
    return Computed(sequence(3, 1), 3, 4, [])


def test_nothing_is_told_before_it_was_measured() -> None:
    pace = Pace()
    assert pace.gauges() == {}
    assert told(pace.gauges()) == {}


def test_steps_that_read_give_the_price_of_a_token() -> None:
    pace = Pace()
    for count in (10, 20, 40, 80, 160, 320):
        pace.step([read(0, count)], 3.0 + 2.0 * count)
    gauges = pace.gauges()
    assert gauges.keys() == set(READING)
    assert gauges["read_token_ms"] == pytest.approx(2.0, rel=0.05)


def test_steps_that_write_give_the_price_of_a_sequence() -> None:
    pace = Pace()
    for rows in (1, 2, 3, 5, 8):
        pace.step([write() for _ in range(rows)], 10.0 + rows)
    assert pace.gauges() == pytest.approx(dict(zip(WRITING, (10.0, 1.0), strict=True)), rel=0.02)


def test_one_sequence_alone_does_not_say_what_a_second_costs() -> None:
    pace = Pace()
    for _ in range(20):
        pace.step([write()], 10.0)
    assert pace.gauges()["write_row_ms"] < 1.0


def test_those_that_write_beside_a_prompt_are_not_its_price() -> None:
    pace = Pace()
    for rows in (1, 2, 4, 8):
        pace.step([write() for _ in range(rows)], 10.0 + 5.0 * rows)
    for count in (10, 20, 40, 80):
        pace.step([read(0, count), write(), write()], 10.0 + 2.0 * count)
    assert pace.gauges()["read_token_ms"] == pytest.approx(2.0, rel=0.1)


def test_a_handoff_that_waited_for_room_says_little_of_the_way() -> None:
    pace = Pace()
    pace.handoff(5000.0, 4.0, 10.0, 2_000_000)
    assert pace.gauges() == dict(zip(HANDING, (54.0, 5.0), strict=True))


def test_a_router_takes_what_was_measured() -> None:
    assert told({"read_token_ms": 7.0, "jobs": 3.0}) == {"read_token_ms": 7.0}
    assert len(NAMES) == len(READING + WRITING + HANDING)


def test_what_cannot_be_true_is_not_believed() -> None:
    gauges = {"read_token_ms": float("inf"), "handoff_ms": -1.0}
    assert told(gauges) == {}
