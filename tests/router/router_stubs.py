"""Prefill and decode nodes that say scripted tokens, in the test's loop, behind a mailbox of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pagewire import timeline
from pagewire.layout import KVLayout
from pagewire.mailbox import Peer
from pagewire.messages import (
    DECODE,
    PREFILL,
    Beat,
    Cancel,
    Epoch,
    Failed,
    Hello,
    Load,
    NodeId,
    PagesWanted,
    PrefillRequest,
    PromptLogprobs,
    Spans,
    TokenItem,
    Tokens,
    Welcome,
)

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=8, dtype="float32", model="m")
CACHED = 3


def peer(name: str, epoch: str = "e") -> Peer:
    return Peer(NodeId(name), Epoch(epoch))


def failed(who: Peer, request: PrefillRequest, *, retryable: bool = True) -> Failed:
    return Failed(
        who.node, who.epoch, request.request, request.attempt, "peer_lost", "secret words", retryable
    )


class Cluster:
    """A mailbox with nodes behind it. ``script`` gives the tokens of a choice; ``eos`` ends one.

    ``hold_at`` k: no token of index k or later comes until ``release``. ``mute`` spans are never reported.
    ``apart`` are prefill and decode nodes, by name, that do not reach each other.
    """

    def __init__(self, script: Callable[[PrefillRequest, int], list[int]], eos: int) -> None:
        self.script, self.eos = script, eos
        self.alive: set[Peer] = set()
        self.sent: list[tuple[Peer, Any]] = []
        self.hold_at: int | None = None
        self.mute = False
        self.apart: set[tuple[str, str]] = set()
        self.decode_first = False  # decode's message overtakes prefill's
        self.max_model_len = 256
        self.max_batch_tokens = 512
        self.loads: dict[Peer, Load] = {}
        self.topologies: dict[str, str] = {}
        self._inbox: asyncio.Queue[tuple[Peer, Any]] = asyncio.Queue()
        self._released = asyncio.Event()
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._at: dict[tuple[str, int], tuple[Peer, Peer]] = {}
        self._cut: set[tuple[str, int, int]] = set()

    # --- the router's end -----------------------------------------------------------------------------------

    async def receive(self) -> tuple[Peer, Any]:
        return await self._inbox.get()

    def send(self, to: Peer, message: object) -> bool:
        if to not in self.alive:
            return False
        if not isinstance(message, Welcome | Beat | PagesWanted):
            self.sent.append((to, message))
        if isinstance(message, Beat):
            self.say(to, Beat(to.node, to.epoch, self.loads.get(to, Load())))
        if isinstance(message, PrefillRequest):
            self._start(to, message)
        if isinstance(message, Cancel):
            self._cancel(message)
        return True

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()

    # --- the test's end -------------------------------------------------------------------------------------

    def join(self, name: str, epoch: str = "e") -> None:
        who, role = peer(name, epoch), name.partition("-")[0]
        self.alive.add(who)
        address = f"shm://{name}" if role == DECODE else ""
        pid = 100 + len(self.alive)
        hello = Hello(
            who.node, who.epoch, role, "0.1.0", pid, LAYOUT, address, "m", self.max_model_len, 999, 16,
            max_batch_tokens=self.max_batch_tokens, topology=self.topologies.get(name, ""),
        )  # fmt: skip
        self._inbox.put_nowait((who, hello))

    def kill(self, name: str) -> None:
        """The process ends: it says nothing more, and nothing can be sent to it."""
        dead = next(who for who in self.alive if who.node == name)
        self.alive.remove(dead)
        for key, pair in self._at.items():
            if dead in pair:
                self._running[key].cancel()

    def release(self) -> None:
        self._released.set()

    def say(self, who: Peer, message: object) -> None:
        self._inbox.put_nowait((who, message))

    def beat(self, name: str, **gauges: float) -> None:
        who = peer(name)
        self.loads[who] = Load(running=2, pages_free=9, pages_total=10, gauges=gauges)
        self.say(who, Beat(who.node, who.epoch, self.loads[who]))

    def requests(self) -> list[PrefillRequest]:
        return [message for _, message in self.sent if isinstance(message, PrefillRequest)]

    def cancelled(self) -> set[tuple[str, int]]:
        """(node, attempt) of every Cancel of an attempt."""
        return {(who.node, cancel.attempt) for who, cancel in self._cancels() if cancel.choice is None}

    def cut(self) -> set[tuple[str, int, int]]:
        """(node, attempt, choice) of every Cancel of one choice."""
        return {(who.node, c.attempt, c.choice) for who, c in self._cancels() if c.choice is not None}

    def _cancels(self) -> list[tuple[Peer, Cancel]]:
        return [(who, message) for who, message in self.sent if isinstance(message, Cancel)]

    # --- the nodes ------------------------------------------------------------------------------------------

    def _start(self, prefill: Peer, request: PrefillRequest) -> None:
        decode = Peer(request.decode.node, request.decode.epoch)
        if decode not in self.alive or (prefill.node, decode.node) in self.apart:
            self.say(prefill, failed(prefill, request))
            return
        key = (request.request, request.attempt)
        self._at[key] = (prefill, decode)
        self._running[key] = asyncio.create_task(self._serve(request, prefill, decode))

    def _cancel(self, message: Cancel) -> None:
        key = message.request, message.attempt
        if message.choice is not None:
            self._cut.add((*key, message.choice))
        elif task := self._running.get(key):
            task.cancel()

    async def _serve(self, request: PrefillRequest, prefill: Peer, decode: Peer) -> None:
        key = request.request, request.attempt
        scripts = {c: self.script(request, c) for c in request.choices}
        at = len(request.tokens) - request.num_prompt
        await self._hold(at)
        first = [self._item(request, c, at, scripts[c]) for c in request.choices]
        opening = Tokens(prefill.node, prefill.epoch, first, *self._told(request, prefill))
        live = [item.choice for item in first if not item.finish]
        again = Tokens(decode.node, decode.epoch, [item for item in first if not item.finish])
        order = (
            [(decode, again), (prefill, opening)]
            if self.decode_first
            else [(prefill, opening), (decode, again)]
        )
        for who, message in order:
            if message.items:
                self.say(who, message)
            for _ in range(9 * self.decode_first):  # so that the router acts on each by itself
                await asyncio.sleep(0)
        if live:
            self.say(decode, Tokens(decode.node, decode.epoch, [], self._spans(request, decode)))
        while live:
            at += 1
            await self._hold(at)
            live = [c for c in live if (*key, c) not in self._cut]
            items = [self._item(request, c, at, scripts[c]) for c in live]
            self.say(decode, Tokens(decode.node, decode.epoch, items))
            live = [item.choice for item in items if not item.finish]

    async def _hold(self, at: int) -> None:
        await asyncio.sleep(0)
        if self.hold_at is not None and at >= self.hold_at:
            await self._released.wait()

    def _item(self, request: PrefillRequest, choice: int, index: int, script: list[int]) -> TokenItem:
        sampling = request.sampling
        token = script[index] if index < len(script) else self.eos
        top = [(token + more, -0.5 - more) for more in range(sampling.logprobs or 0)]
        ends = token in sampling.stop_token_ids or (token == self.eos and not sampling.ignore_eos)
        finish = "stop" if ends else "length" if index + 1 == sampling.max_tokens else ""
        return TokenItem(
            request.request,
            request.attempt,
            choice,
            index,
            token,
            None if sampling.logprobs is None else -0.5,
            top,
            finish,
            token if ends else -1,
        )

    def _told(self, request: PrefillRequest, prefill: Peer) -> tuple[list[Spans], list[PromptLogprobs]]:
        count = request.sampling.prompt_logprobs
        if count is None:
            return self._spans(request, prefill), []
        values = [-1.0 - number for number in range(len(request.tokens) - 1)]
        top = [[(token, -0.25)][:count] for token in request.tokens[1:]]
        return self._spans(request, prefill), [PromptLogprobs(request.request, request.attempt, values, top)]

    def _spans(self, request: PrefillRequest, who: Peer) -> list[Spans]:
        if self.mute:
            return []
        role = PREFILL if who.node.startswith(PREFILL) else DECODE
        ms = {
            PREFILL: {timeline.QUEUE: 1.0, timeline.PREFILL_COMPUTE: 2.0, timeline.TRANSFER_EXPOSED: 3.0},
            DECODE: {timeline.QUEUE: 4.0, timeline.FIRST_STEP: 5.0},
        }[role]
        counts = {timeline.CACHED_TOKENS: CACHED, timeline.TRANSFER_BYTES: 640} if role == PREFILL else {}
        return [Spans(request.request, request.attempt, who.node, role, 7, ms, counts)]
