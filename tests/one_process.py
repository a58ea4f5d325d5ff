"""A router's view of a prefill and a decode node in this process, on a wire that tests can break.

With a GPU both are on it, in deterministic mode, and KV goes through pinned memory. ``flexible`` nodes have
both roles each; the first one is still asked to read, and the second one to write.
"""

from __future__ import annotations

import itertools
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tiny import model_folder

from decode_node.role import DecodeRole
from kv_transfer import Receiver, Sender, Timeouts
from kv_transfer.transports.loopback import Loopback
from pagewire.engine.build import CAPTURES, Built, build_engine
from pagewire.engine.engine import Engine
from pagewire.engine.staging import HostPages, PinnedPages, handoff_pages
from pagewire.messages import (
    DECODE,
    PREFILL,
    Cancel,
    DecodeTarget,
    Epoch,
    Failed,
    Hello,
    Load,
    NodeId,
    PrefillRequest,
    RequestId,
    Spans,
    TokenItem,
    Tokens,
)
from pagewire.node_loop import NodeLoop
from pagewire.node_role import MakeRole
from pagewire.sampling import SamplingParams
from prefill_node.role import PrefillRole

ROUTER = NodeId("router")
ahead = False  # whether engines overlap their steps: tests set it
flexible = False  # whether each node has both roles
TOKEN_NUMBERS = 3 * 2 * 2 * 16  # of the tiny model's cache: layers, keys and values, KV heads, head_dim


class Post:
    """An Outbox whose other end is the test."""

    def __init__(self) -> None:
        self.inbox: deque[tuple[NodeId, Any]] = deque()
        self.sent: list[Any] = []
        self.load = Load()
        self.role = ""

    def drain(self) -> list[tuple[NodeId, Any]]:
        return [self.inbox.popleft() for _ in range(len(self.inbox))]

    def send(self, router: NodeId, message: object) -> None:
        assert router == ROUTER
        self.sent.append(message)

    def report(self, load: Load) -> None:
        self.load = load

    def take_role(self, role: str) -> None:
        self.role = role


class World:
    """One prefill node, one decode node, a clock that the test moves, and what the router was told."""

    def __init__(
        self,
        folder: Path,
        *,
        prefill_pages: int = 128,
        decode_pages: int = 128,
        prefill_page_size: int = 16,
        decode_page_size: int = 16,
        budget: int = 64,
        network: Loopback | None = None,
        kv_cache_dtype: str = "bfloat16",
    ) -> None:
        self.now = 100.0
        self.token_bytes = TOKEN_NUMBERS * (2 if kv_cache_dtype == "bfloat16" else 4)
        self.network = network or Loopback()
        self.posts = {PREFILL: Post(), DECODE: Post()}
        token_bytes = self.token_bytes
        built = _build(folder, prefill_pages * token_bytes, prefill_page_size, budget, kv_cache_dtype)
        self.prefill_engine = built.engine
        quick = Timeouts(retry_s=1.0, stall_s=5.0)
        self.sender = Sender(self.network.end("p"), _pages(built), built.layout, "pe", quick, poll_bytes=4096)
        self.ends = [self.sender]
        roles: dict[str, MakeRole] = {PREFILL: partial(PrefillRole, sender=self.sender)}
        if flexible:
            back = Receiver(self.network.end("pd"), _pages(built), built.layout, "pe", timeouts=quick)
            roles[DECODE] = partial(DecodeRole, receiver=back)
            self.ends.append(back)
        self.prefill = self._node(PREFILL, built, roles)
        built = _build(folder, decode_pages * token_bytes, decode_page_size, budget, kv_cache_dtype)
        self.decode_engine = built.engine
        self.receiver = Receiver(self.network.end("d"), _pages(built), built.layout, "de", timeouts=quick)
        self.ends.append(self.receiver)
        roles = {DECODE: partial(DecodeRole, receiver=self.receiver)}
        if flexible:
            on = Sender(self.network.end("ds"), _pages(built), built.layout, "de", quick, poll_bytes=4096)
            roles = {PREFILL: partial(PrefillRole, sender=on)} | roles
            self.ends.append(on)
        self.decode = self._node(DECODE, built, roles)
        self._ids = itertools.count()

    def _node(self, role: str, built: Built, roles: dict[str, MakeRole]) -> NodeLoop:
        return NodeLoop(_hello(role, built), built.engine, self.posts[role], lambda: self.now, roles)

    def ask(
        self,
        tokens: list[int],
        params: SamplingParams,
        name: str | None = None,
        seed: int = 7,
        *,
        reader: str = PREFILL,
        address: str = "d",
        priority: int = 0,
        writer: str = "d",
    ) -> RequestId:
        """What a router does for a request, whose prompt the node of role ``reader`` is to read."""
        request = RequestId(name or f"r{next(self._ids)}")
        target = DecodeTarget(NodeId(writer), Epoch(f"{writer}e"), address)
        asked = PrefillRequest(
            request, 1, list(range(params.n)), tokens, len(tokens), params, seed, "", 60_000, target, priority
        )
        self.posts[reader].inbox.append((ROUTER, asked))
        return request

    def cancel(self, request: RequestId, choice: int | None = None) -> None:
        for post in self.posts.values():
            post.inbox.append((ROUTER, Cancel(request, 1, choice)))

    def turn(self) -> None:
        self.now += 0.01
        self.prefill.turn()
        self.decode.turn()

    def run(self, limit: int = 3000) -> None:
        """Turn until both nodes hold nothing any more."""
        for _ in range(limit):
            self.turn()
            if self.quiet:
                return
        raise AssertionError(f"still busy: {self.prefill.load()} {self.decode.load()}")

    @property
    def quiet(self) -> bool:
        loads = self.prefill.load(), self.decode.load()
        held = sum(load.gauges.get(name, 0) for load in loads for name in ("jobs", "landing", "live"))
        mail = any(post.inbox for post in self.posts.values())
        return not (mail or held or any(x.waiting or x.running or x.transfers for x in loads))

    def engines(self) -> tuple[Engine, Engine]:
        return self.prefill_engine, self.decode_engine

    def check_nothing_is_held(self) -> None:
        for engine in self.engines():
            engine.pool.check()
            assert engine.accounts().leased == 0
            assert not engine.busy
        assert not any(end.open_transfers for end in self.ends)
        assert self.prefill.idle
        assert self.decode.idle
        assert self.receiver.credit_bytes == 0

    # --- what the router was told ---------------------------------------------------------------------------

    def items(self, role: str | None = None) -> list[TokenItem]:
        roles = [role] if role else [PREFILL, DECODE]
        return [i for r in roles for m in self.posts[r].sent if isinstance(m, Tokens) for i in m.items]

    def answers(self) -> dict[tuple[str, int], tuple[list[int], str]]:
        """Tokens and finish reason by (request, choice); repeats must agree."""
        found: dict[tuple[str, int], dict[int, TokenItem]] = {}
        for item in self.items():
            choice = found.setdefault((item.request, item.choice), {})
            assert choice.setdefault(item.index, item) == item
        return {
            key: ([items[i].token for i in range(len(items))], items[len(items) - 1].finish)
            for key, items in found.items()
        }

    def failures(self) -> list[Failed]:
        return [m for post in self.posts.values() for m in post.sent if isinstance(m, Failed)]

    def spans(self, role: str) -> list[Spans]:
        return [s for m in self.posts[role].sent if isinstance(m, Tokens) for s in m.spans]


def _build(folder: Path, row_bytes: int, page_size: int, budget: int, kv_cache_dtype: str) -> Built:
    """``row_bytes``: of one token in every page of the pool."""
    return build_engine(
        model_folder(folder),
        load_format="dummy",
        page_size=page_size,
        kv_cache_bytes=row_bytes * page_size,
        max_batch_tokens=budget,
        kv_cache_dtype=kv_cache_dtype,
        async_scheduling=ahead,
        **on_a_gpu(kv_cache_dtype),
    )


def on_a_gpu(kv_cache_dtype: str = "bfloat16") -> dict[str, Any]:
    """What build_engine must be told more where there is one, so that tokens can be compared."""
    if not torch.cuda.is_available():
        return {}
    return {"dtype": kv_cache_dtype, "deterministic": True, "capture": CAPTURES if ahead else ()}


def _pages(built: Built) -> HostPages | PinnedPages:
    return handoff_pages(built.engine.runner.cache)


def _hello(role: str, built: Built) -> Hello:
    config = built.engine.config
    address = "d" if role == DECODE else ""
    return Hello(
        NodeId(address or "p"),
        Epoch(f"{address or 'p'}e"),
        role,
        "0.1.0",
        1 if role == PREFILL else 2,
        built.layout,
        address,
        "tiny",
        config.max_model_len,
        config.num_pages,
        config.page_size,
    )
