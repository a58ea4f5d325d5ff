"""A router and its nodes in one process, without sockets: what the one says the others hear at once.

Nodes called worker-N have both roles and begin with the one that they are given.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from one_process import TOKEN_NUMBERS, Post, _build, _pages

from decode_node.role import DecodeRole
from kv_transfer import Receiver, Sender
from kv_transfer.transports.loopback import Loopback
from pagewire.engine.engine import Engine
from pagewire.hub import resolve
from pagewire.mailbox import SPEAKS, TO_NODE, TO_ROUTER, Peer
from pagewire.messages import DECODE, PREFILL, Beat, Epoch, Hello, NodeId, PagesChanged, Welcome
from pagewire.node_loop import NodeLoop
from pagewire.node_role import MakeRole
from pagewire.sampling import SamplingParams
from pagewire.text.tokenizer import load_tokenizer
from prefill_node.role import PrefillRole
from router.generation import Generation
from router.options import RouterOptions
from router.service import Service
from router.submission import Submission

GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
NODES = {"prefill-0": PREFILL, "prefill-1": PREFILL, "decode-0": DECODE}


class World:
    """What the router sends is in a node's inbox at once; what the nodes say, after their turn."""

    def __init__(
        self,
        folder: Path,
        nodes: dict[str, str] = NODES,
        *,
        keeps: bool = True,
        pages: int = 256,
        **options: Any,
    ) -> None:
        """``nodes``: what each begins as. ``pages`` of 16 tokens each."""
        self.keeps = keeps
        self.now = 100.0
        self.nodes: dict[str, tuple[NodeLoop, Post, Hello]] = {}
        self.engines: list[Engine] = []
        self.drop_pages = 0  # so many messages about pages get lost
        self.measured: dict[str, float] = {}  # what nodes say to have measured: here their clock stands still
        self.why = ""  # of the last request
        self._ids = itertools.count()
        network = Loopback()
        made = RouterOptions(model="demo", mailbox="", router_id="router", **options)
        self.service = Service(self, made, load_tokenizer(resolve("demo")), lambda: self.now)
        for name, role in nodes.items():
            self._start(folder, name, role, network, pages)
        self.turn()

    def _start(self, folder: Path, name: str, role: str, network: Loopback, pages: int) -> None:
        built, post = _build(folder, pages * TOKEN_NUMBERS * 2, 16, 64, "bfloat16"), Post()
        engine, config = built.engine, built.engine.config
        engine.cache.enabled = self.keeps
        self.engines.append(engine)
        flexible = name.startswith("worker")
        roles: dict[str, MakeRole] = {}
        if flexible or role == PREFILL:
            sender = Sender(network.end(f"{name}-out"), _pages(built), built.layout, name)
            roles[PREFILL] = partial(PrefillRole, sender=sender)
        if flexible or role == DECODE:
            receiver = Receiver(network.end(name), _pages(built), built.layout, name)
            roles[DECODE] = partial(DecodeRole, receiver=receiver)
        address = name if DECODE in roles else ""
        sizes = config.max_model_len, config.num_pages, config.page_size
        hello = Hello(NodeId(name), Epoch("e"), role, SPEAKS, 1, built.layout, address, "tiny", *sizes)
        hello = replace(hello, prefix_caching=self.keeps, roles=list(roles) if flexible else [])
        node = NodeLoop(hello, engine, post, lambda: self.now, roles)
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
            said, post.sent = [*post.sent, Beat(hello.node, hello.epoch, load, post.role)], []
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
        asked = [self.submit(tokens, GREEDY, salt) for tokens in prompts]
        self.finish()
        return [self._told(generation) for generation in asked]

    def submit(self, prompt: list[int], sampling: SamplingParams, salt: str = "") -> Generation:
        given = Submission(
            request=f"{next(self._ids):032x}",
            prompts=[prompt],
            sampling=sampling,
            cache_salt=salt,
            whole=True,
        )
        return self.service.submit(given, self.service.admit())

    def finish(self, turns: int = 500) -> None:
        for _ in range(turns):
            self.turn()
            if not self.service.inflight:
                return
        raise AssertionError(f"{self.service.inflight} requests have not ended")

    def peer(self, name: str) -> Peer:
        hello = self.nodes[name][2]
        return Peer(hello.node, hello.epoch)

    def _told(self, generation: Generation) -> tuple[str, int | None, list[int]]:
        member = generation.members[0]
        tokens = self.tokens(generation)
        self.why = str(member.dispatch.pairs[0].why)
        return member.dispatch.pairs[0].prefill.node, member.cached_tokens, tokens

    def tokens(self, generation: Generation) -> list[int]:
        return [item.token for delta in generation.feed._unread for item in delta.items]
