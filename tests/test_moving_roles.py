"""Nodes change their roles while requests run: nothing is lost, and no token is another one for it."""

from __future__ import annotations

import random
from pathlib import Path

import one_process
import pytest
from routed_world import World
from tiny import model_folder

from kv_transfer.transports.base import Arrived, Peer
from kv_transfer.transports.loopback import Loopback
from pagewire.messages import DECODE, PREFILL, TakeRole
from pagewire.sampling import SamplingParams

WORKERS = {"worker-0": PREFILL, "worker-1": PREFILL, "worker-2": DECODE, "worker-3": DECODE}
SHORT = SamplingParams(max_tokens=4, ignore_eos=True)
PARAMS = SamplingParams(temperature=1.0, max_tokens=24, ignore_eos=True, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny").path


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    dice = random.Random(3)
    return [[dice.randrange(5, 95) for _ in range(dice.randrange(3, 90))] for _ in range(24)]


@pytest.fixture(scope="module")
def expected(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """One node of each role, one request at a time."""
    world = World(folder, {"prefill-0": PREFILL, "decode-0": DECODE}, keeps=False, disaggregate="always")
    answers = []
    for prompt in prompts:
        generation = world.submit(prompt, PARAMS)
        world.finish()
        answers.append(world.tokens(generation))
    return answers


def turn(world: World, name: str, role: str) -> None:
    world.service.tell(world.peer(name), TakeRole(role))


def role_of(world: World, name: str) -> str:
    return world.service.fleet.nodes[world.nodes[name][2].node].role


@pytest.mark.parametrize("pages", [256, 20])
@pytest.mark.parametrize("seed", range(3))
def test_twenty_moves_at_random_moments_change_no_token(
    folder: Path, prompts: list[list[int]], expected: list[list[int]], seed: int, pages: int
) -> None:
    """With 20 pages, a prompt and its answer take a third of a node: what lands and what is read compete."""
    dice = random.Random(seed)
    world = World(folder, WORKERS, pages=pages, disaggregate=dice.choice(["always", "auto"]))
    waiting, asked, moves = list(prompts), [], 0
    while waiting or moves < 20 or world.service.inflight:
        if waiting and dice.random() < 0.2:
            asked.append(world.submit(waiting.pop(0), PARAMS))
        if moves < 20 and dice.random() < 0.15:
            moves += 1
            turn(world, dice.choice(list(WORKERS)), dice.choice([PREFILL, DECODE]))
        world.turn()
        assert world.now < 400.0, "it stands still"
    assert [world.tokens(generation) for generation in asked] == expected
    for _ in range(50):
        world.turn()
    for engine, (node, _, _) in zip(world.engines, world.nodes.values(), strict=True):
        engine.pool.check()
        assert engine.accounts().leased == 0
        assert node.idle


def test_new_work_goes_by_the_new_role_and_running_work_stays(folder: Path, prompts: list[list[int]]) -> None:
    nodes = {"worker-0": PREFILL, "worker-1": DECODE, "worker-2": DECODE}
    world = World(folder, nodes, disaggregate="always")
    first = world.submit(prompts[0], PARAMS)
    for _ in range(8):
        world.turn()
    writer = first.members[0].dispatch.pairs[0].decode.node
    turn(world, writer, PREFILL)
    world.turn()
    assert role_of(world, writer) == PREFILL
    later = world.submit(prompts[1], PARAMS)
    world.finish()
    assert [len(each.members[0].dispatch.pairs) for each in (first, later)] == [1, 1]
    assert later.members[0].dispatch.pairs[0].decode.node != writer


def test_a_node_of_one_role_keeps_it(folder: Path) -> None:
    world = World(folder)
    turn(world, "prefill-0", DECODE)
    world.turn()
    assert role_of(world, "prefill-0") == PREFILL


def test_the_last_decode_node_may_turn_and_come_back(folder: Path, prompts: list[list[int]]) -> None:
    """Without a decode node requests wait, as for one that is lost."""
    world = World(folder, {"worker-0": PREFILL, "worker-1": DECODE}, disaggregate="always")
    turn(world, "worker-1", PREFILL)
    world.turn()
    generation = world.submit(prompts[0], PARAMS) if world.service.fleet.able else None
    assert generation is None
    turn(world, "worker-0", DECODE)
    world.turn()
    world.submit(prompts[0], PARAMS)
    world.finish()


@pytest.mark.parametrize("first", [PREFILL, DECODE])
def test_two_that_read_for_each_other_do_not_wait_for_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Each has pages for one prompt and a half: what lands must not take those of what is to be read."""
    monkeypatch.setattr(one_process, "flexible", True)
    world = one_process.World(folder, prefill_pages=7, decode_pages=7)
    for number in range(4):
        prompt = [5 + number + i for i in range(60)]
        world.ask(prompt, SHORT)
        world.ask(prompt, SHORT, reader=DECODE, address="pd", writer="p")
    nodes = [world.prefill, world.decode] if first == PREFILL else [world.decode, world.prefill]
    for _ in range(1000):
        world.now += 0.01
        for node in nodes:
            node.turn()
    assert [len(tokens) for tokens, _ in world.answers().values()] == [4] * 8
    world.check_nothing_is_held()


class Slow(Loopback):
    """What is sent is there only when all have had their turn, as on a wire."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[tuple[Peer, Arrived]] = []

    def carry(self, target: Peer, frame: Arrived) -> None:
        self.under_way.append((target, frame))

    def arrive(self) -> None:
        frames, self.under_way = self.under_way, []
        for target, frame in frames:
            self.deliver(target, frame)


@pytest.mark.parametrize("delay", range(4))
def test_nor_do_two_that_ask_each_other_in_one_instant(
    folder: Path, monkeypatch: pytest.MonkeyPatch, delay: int
) -> None:
    monkeypatch.setattr(one_process, "flexible", True)
    network = Slow()
    world = one_process.World(folder, prefill_pages=7, decode_pages=7, network=network)
    for number in range(4):
        prompt = [5 + number + i for i in range(60)]
        world.ask(prompt, SHORT)
        world.ask(prompt, SHORT, reader=DECODE, address="pd", writer="p")
    for turn in range(4000):
        world.turn()
        if turn % (delay + 1) == delay:
            network.arrive()
    assert [len(tokens) for tokens, _ in world.answers().values()] == [4] * 8
    world.check_nothing_is_held()
