"""A conversation goes back to where it was: a router, two prefill nodes and a decode node in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from routed_world import World
from tiny import model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny").path


def conversation(number: int) -> list[int]:
    return [5 + (number + 3) * i % 90 for i in range(50)]


def test_the_second_turn_goes_where_the_first_one_was_read(folder: Path) -> None:
    world = World(folder, disaggregate="always")
    for number in range(4):
        prompt = conversation(number)
        [(reader, cached, answer)] = world.ask(prompt)
        again = [*prompt, *answer, 7, 8, 9]
        assert (cached, world.ask(again)[0][:2]) == (0, (reader, 48))


def test_two_that_begin_alike_in_one_instant_go_together(folder: Path) -> None:
    world = World(folder, disaggregate="always")
    for number in range(4):
        begin = conversation(number)
        first, second = world.ask([*begin, 1, 2], [*begin, 3, 4])
        assert first[0] == second[0]


def test_nodes_that_keep_nothing_are_not_believed_to(folder: Path) -> None:
    world = World(folder, keeps=False, disaggregate="always")
    whys = []
    for _ in range(2):
        world.ask(conversation(0))
        whys.append(world.why)
    assert whys == ["load", "load"]


def test_another_salt_finds_nothing(folder: Path) -> None:
    world = World(folder, disaggregate="always")
    world.ask(conversation(0))
    assert world.ask(conversation(0), salt="other")[0][1] == 0


def test_a_message_that_was_lost_is_made_up_for(folder: Path) -> None:
    world = World(folder, disaggregate="always")
    world.drop_pages = 2
    [(reader, _, _)] = world.ask(conversation(0))
    world.ask(conversation(1))
    world.ask(conversation(2))
    world.now += 20.0  # nothing is foreseen any more
    for _ in range(3):
        world.turn()
    held = {label[:8] for label in world.engines[[*world.nodes].index(reader)].pool.labels}
    assert set(world.service.requests.placing.index._nodes[world.peer(reader)].pages) == held


def test_a_turn_whose_pages_lie_at_the_decode_node_is_read_there(folder: Path) -> None:
    world = World(folder)
    world.measured = {"read_token_ms": 10.0}
    prompt = conversation(0)
    [(reader, _, answer)] = world.ask(prompt)
    assert reader.startswith("prefill")
    turn = [*prompt, *answer, 7]
    world.service.requests.placing.index.forget(world.peer(reader))
    assert world.ask(turn)[0][:2] == ("decode-0", 48)
