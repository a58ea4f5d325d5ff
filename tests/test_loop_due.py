from __future__ import annotations

import math
from pathlib import Path

import pytest
from one_process import World

from pagewire.messages import DECODE
from pagewire.sampling import SamplingParams

PARAMS = SamplingParams(max_tokens=3, temperature=0.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "model")


def test_with_nothing_in_hand_nothing_is_due(world: World) -> None:
    world.turn()
    assert world.prefill.due_in(world.now) == world.decode.due_in(world.now) == math.inf


def test_a_prefill_node_wakes_for_its_next_deadline(world: World) -> None:
    world.ask([5, 6, 7], PARAMS)
    world.prefill.turn()
    assert world.prefill.due_in(world.now + 10.0) == pytest.approx(50.0)


def test_a_decode_node_wakes_for_its_next_deadline(world: World) -> None:
    world.ask([5, 6, 7], PARAMS, reader=DECODE)
    world.decode.turn()
    assert world.decode.due_in(world.now + 10.0) == pytest.approx(50.0)


def test_a_deadline_that_has_passed_is_due_at_once(world: World) -> None:
    world.ask([5, 6, 7], PARAMS)
    world.prefill.turn()
    assert world.prefill.due_in(world.now + 99.0) == 0.0


def test_when_all_has_ended_nothing_is_due(world: World) -> None:
    world.ask([5, 6, 7], PARAMS)
    world.run()
    assert world.prefill.due_in(world.now) == world.decode.due_in(world.now) == math.inf
