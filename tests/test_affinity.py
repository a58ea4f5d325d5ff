"""A conversation goes back to where it was: a router, two prefill nodes and a decode node in one process."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from one_process import TOKEN_NUMBERS, Post, _build, _pages
from tiny import model_folder

from decode_node.loop import DecodeNode
from kv_transfer import Receiver, Sender
from kv_transfer.transports.loopback import Loopback
from pagewire.hub import resolve
from pagewire.mailbox import SPEAKS, TO_NODE, TO_ROUTER, Peer
from pagewire.messages import DECODE, PREFILL, Beat, Epoch, Hello, NodeId, PagesChanged, Welcome
from pagewire.sampling import SamplingParams
from pagewire.text.tokenizer import load_tokenizer
from prefill_node.loop import PrefillNode
from router.generation import Generation
from router.options import RouterOptions
from router.service import Service
from router.submission import Submission

GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
Node = PrefillNode | DecodeNode


class World:
    """What the router sends is in a node's inbox at once; what the nodes say, after their turn."""

    def __init__(self, folder: Path, *, keeps: bool = True, **options: Any) -> None:
        self.keeps = keeps
        self.now = 100.0
        self.nodes: dict[str, tuple[Node, Post, Hello]] = {}
        self.drop_pages = 0  # so many messages about pages get lost
        self.measured: dict[str, float] = {}  # what nodes say to have measured: here their clock stands still
        self.why = ""  # of the last request
        self._ids = itertools.count()
        network = Loopback()
        made = RouterOptions(model="demo", mailbox="", router_id="router", **options)
        self.service = Service(self, made, load_tokenizer(resolve("demo")), lambda: self.now)
        for name in ("prefill-0", "prefill-1", "decode-0"):
            self._start(folder, name, network)
        self.turn()

    def _start(self, folder: Path, name: str, network: Loopback) -> None:
        built, post = _build(folder, 256 * TOKEN_NUMBERS * 2, 16, 64, "bfloat16"), Post()
        role, config, end = name.partition("-")[0], built.engine.config, network.end(name)
        address = name if role == DECODE else ""
        sizes = config.max_model_len, config.num_pages, config.page_size
        built.engine.cache.enabled = self.keeps
        hello = Hello(NodeId(name), Epoch("e"), role, SPEAKS, 1, built.layout, address, "tiny", *sizes)
        hello = replace(hello, prefix_caching=self.keeps)
        node: Node
        if role == PREFILL:
            sender = Sender(end, _pages(built), built.layout, name)
            node = PrefillNode(hello, built.engine, sender, post, lambda: self.now)
        else:
            receiver = Receiver(end, _pages(built), built.layout, name)
            node = DecodeNode(hello, built.engine, receiver, post, lambda: self.now)
        self.nodes[name] = node, post, hello
        self._hear(hello, hello)

    async def receive(self) -> Any:
        raise NotImplementedError

    def send(self, peer: Peer, message: object) -> bool:
        if not isinstance(message, Welcome | Beat):
            self.nodes[peer.node][1].inbox.append((NodeId("router"), TO_NODE.decode(TO_NODE.encode(message))))
        return True

    def turn(self) -> None:
        self.now += 0.01
        for node, post, hello in self.nodes.values():
            node.turn()
            load = replace(post.load, gauges=post.load.gauges | self.measured)
            said, post.sent = [*post.sent, Beat(hello.node, hello.epoch, load)], []
            for message in said:
                if isinstance(message, PagesChanged) and message.sequence and self.drop_pages:
                    self.drop_pages -= 1
                else:
                    self._hear(hello, TO_ROUTER.decode(TO_ROUTER.encode(message)))
        self.service.sweep()

    def _hear(self, hello: Hello, message: object) -> None:
        self.service.receive(Peer(hello.node, hello.epoch), message)

    def ask(self, *prompts: list[int], salt: str = "") -> list[tuple[str, int | None, list[int]]]:
        """Who read each prompt, how much of it was cached there, and the answer. All are asked at once."""
        asked = [
            self.service.submit(
                Submission(
                    request=f"{next(self._ids):032x}",
                    prompts=[tokens],
                    sampling=GREEDY,
                    cache_salt=salt,
                    whole=True,
                ),
                self.service.admit(),
            )
            for tokens in prompts
        ]
        for _ in range(500):
            self.turn()
            if not self.service.inflight:
                break
        assert not self.service.inflight
        return [self._told(generation) for generation in asked]

    def peer(self, name: str) -> Peer:
        hello = self.nodes[name][2]
        return Peer(hello.node, hello.epoch)

    def _told(self, generation: Generation) -> tuple[str, int | None, list[int]]:
        member = generation.members[0]
        tokens = [item.token for delta in generation.feed._unread for item in delta.items]
        self.why = str(member.dispatch.pairs[0].why)
        return member.dispatch.pairs[0].prefill.node, member.cached_tokens, tokens


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
    held = {label[:8] for label in world.nodes[reader][0]._engine.pool.labels}
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
