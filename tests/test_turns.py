"""Who goes first on the nodes: both in one process, on a wire without sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_process import World
from tiny import model_folder

from pagewire.messages import DECODE, PREFILL, RequestId
from pagewire.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny").path


def first_tokens(world: World, role: str = PREFILL) -> list[RequestId]:
    """In the order of their coming."""
    world.run()
    world.check_nothing_is_held()
    return list(dict.fromkeys(item.request for item in world.items(role)))


def prompt(number: int, length: int) -> list[int]:
    return [number] * length


def test_a_short_prompt_is_read_beside_a_long_one(folder: Path) -> None:
    world = World(folder, budget=32)
    long = world.ask(prompt(5, 400), GREEDY)
    for _ in range(4):
        world.turn()
    short = world.ask(prompt(6, 20), GREEDY)
    assert first_tokens(world) == [short, long]


def test_short_prompts_that_keep_coming_do_not_hold_a_long_one_up_for_ever(folder: Path) -> None:
    world = World(folder, budget=32)
    world.ask(prompt(5, 400), GREEDY, "long")
    for number in range(60):
        world.ask(prompt(10 + number, 30), GREEDY)
        world.turn()
    assert first_tokens(world).index(RequestId("long")) < 58


def test_of_those_that_wait_the_urgent_one_is_read_first(folder: Path) -> None:
    world = World(folder, budget=32)
    asked = [world.ask(prompt(5 + number, 32), GREEDY) for number in range(6)]
    urgent = world.ask(prompt(20, 32), GREEDY, priority=-5)
    assert first_tokens(world) == [urgent, *asked]


def test_the_urgent_one_gets_its_pages_on_the_decode_side_first(folder: Path) -> None:
    world = World(folder, budget=256, decode_pages=8)
    running = world.ask(prompt(5, 90), GREEDY)
    for _ in range(3):
        world.turn()
    usual = world.ask(prompt(6, 90), GREEDY)
    world.prefill.turn()
    urgent = world.ask(prompt(7, 90), GREEDY, priority=-5)
    assert first_tokens(world, DECODE) == [running, urgent, usual]
