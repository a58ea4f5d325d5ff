"""The router without HTTP: takes requests in, listens to the nodes, and lets time pass.

One event loop, two tasks. Knows requests as token ids; knows no HTTP and no template.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from pagewire.errors import Unavailable
from pagewire.mailbox import BEAT_EVERY_S, SPEAKS, Peer
from pagewire.messages import Beat, Epoch, Failed, Hello, NodeId, PagesChanged, TokenItem, Tokens
from pagewire.text.tokenizer import Tokenizer
from router.admission import Admission, Limits, Ticket
from router.canary import Canary, Send
from router.feed import Feed
from router.fleet import Fleet
from router.generation import Generation
from router.intake import members_of
from router.metrics import Metrics
from router.options import RouterOptions
from router.placement import Rules
from router.requests import Mailbox, Requests
from router.submission import Submission

SWEEP_S = 0.05  # between two looks at the time while requests are in hand
IDLE_S = 0.5  # and while there are none
BEATS = 128  # heartbeats to nodes in one sweep
_BURST = 64  # messages in a row before others get the loop

log = logging.getLogger("pagewire.router")


class Service:
    """``clock`` gives seconds that never go back."""

    def __init__(
        self,
        mailbox: Mailbox,
        options: RouterOptions,
        tokenizer: Tokenizer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.clock = clock
        name = options.router_id or f"router-{secrets.token_hex(4)}"
        self.fleet = Fleet(
            NodeId(name),
            Epoch(secrets.token_hex(8)),
            SPEAKS,
            suspect_after=options.suspect_after_s,
            lost_after=options.lost_after_s,
            colocated=options.colocated,
        )
        self.metrics = Metrics(
            self.fleet,
            lambda: len(self.requests),
            lambda: len(self.requests.reach),
            lambda: len(self.requests.backlog),
        )
        rules = Rules(options.placement, options.disaggregate)
        self.requests = Requests(self.fleet, mailbox, self.metrics, clock, rules)
        self.admission = Admission(
            Limits(
                inflight=options.max_inflight,
                of_tenant=options.max_inflight_per_key,
                queued=options.max_queued,
                ttft_s=options.ttft_target_s,
            ),
            self.requests.backlog,
        )
        self.canary = Canary(self.fleet, options.canary_s, lambda: secrets.token_hex(16))
        self.requests.came_through = self.canary.proved
        self.draining = False
        self._mailbox = mailbox
        self._tokenizer = tokenizer
        self._beat_at = 0.0
        self._unbeaten: deque[Peer] = deque()  # who has yet to get this round's heartbeat
        self._begun = asyncio.Event()  # a request has come: time counts again

    # --- for HTTP -------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return not self.unready

    @property
    def unready(self) -> str:
        """Why a request that came now might not be served, or ""."""
        if self.draining:
            return "the server is shutting down"
        if not self.fleet.able:
            return "no prefill and decode node are ready"
        return self.canary.doubt(self.clock())

    @property
    def inflight(self) -> int:
        return len(self.requests)

    @property
    def max_model_len(self) -> int | None:
        known = [n for n in (self.options.max_model_len, self.fleet.max_model_len) if n is not None]
        return min(known, default=None)

    def admit(self, tenant: str = "", body_bytes: int = 0) -> Ticket:
        """A place for a request whose body has so many bytes. Asked before any work is spent on it, and
        before the body is read. Raises Unavailable."""
        if self.draining:
            raise Unavailable("the server is shutting down", retry_after=2.0)
        capacity = self.requests.capacities.at(self.clock())
        if capacity is None or not self.fleet.able:
            raise Unavailable("no prefill and decode node are ready", retry_after=2.0)
        return self.admission.admit(tenant, body_bytes, capacity)

    def submit(self, given: Submission, ticket: Ticket) -> Generation:
        """Queue ``given``: its turn comes by itself. ``ticket`` has a place for each prompt, and goes with
        them. Raises Unavailable."""
        if self.draining:  # since it was admitted
            raise Unavailable("the server is shutting down", retry_after=2.0)
        assert ticket.places == len(given.prompts)
        now, feed = self.clock(), Feed(len(given.prompts) * given.sampling.n, unlimited=given.whole)
        members = members_of(given, now, self.options, self._tokenizer, self.requests.choose)
        self._begun.set()
        return self.requests.start(now, feed, members, ticket)

    def tell(self, peer: Peer, message: object) -> bool:
        """A word to a node that is about no request. False if it cannot be reached."""
        return self._mailbox.send(peer, message)

    # --- tasks ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._watch())

    async def _listen(self) -> None:
        count = 0
        while True:
            peer, message = await self._mailbox.receive()
            self.receive(peer, message)
            count += 1
            if count % _BURST == 0:
                await asyncio.sleep(0)

    async def _watch(self) -> None:
        while True:
            self.sweep()
            self._begun.clear()
            if self.inflight:
                await asyncio.sleep(SWEEP_S)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._begun.wait(), self._idle_s())

    def _idle_s(self) -> float:
        if self._unbeaten:
            return SWEEP_S
        return max(0.0, min(IDLE_S, self._beat_at - self.clock()))

    # --- events ---------------------------------------------------------------------------------------------

    def receive(self, peer: Peer, message: object) -> None:
        now = self.clock()
        match message:
            case Tokens():
                if self.fleet.heard(now, peer):
                    self.requests.tokens(now, peer, self._without_ours(now, peer, message))
            case Beat():
                answer, changes = self.fleet.beat(now, peer, message)
                self._answer(peer, answer)
                self.requests.changed(now, changes)
            case PagesChanged():
                if self.fleet.heard(now, peer):
                    self.requests.pages(now, peer, message)
            case Failed():
                if not self.fleet.heard(now, peer):
                    pass
                elif self.canary.mine(message.request):
                    self._send(self.canary.failed(now, message))
                else:
                    self.requests.failed(now, peer, message)
            case Hello():
                answer, changes = self.fleet.hello(now, peer, message)
                self._answer(peer, answer)
                if answer is not None and answer.refused:
                    log.warning("refused %s: %s", peer.node, answer.refused)
                self.requests.changed(now, changes)
                for change in changes:
                    self._send(self.canary.lost(change.peer))
                self._send(self.canary.tick(now))
            case _:
                log.warning("%s sent a %s", peer.node, type(message).__name__)

    def sweep(self) -> None:
        """Time has passed."""
        now = self.clock()
        if now >= self._beat_at and not self._unbeaten:
            self._beat_at = now + BEAT_EVERY_S
            self._unbeaten.extend(node.peer for node in self.fleet.nodes.values())
        self._beat(now)
        self.requests.changed(now, self.fleet.sweep(now))
        self.requests.tick(now)
        if not self.draining:
            self._send(self.canary.tick(now))

    def _beat(self, now: float) -> None:
        """Heartbeats to some of those that are due: all of a large fleet at once would keep every stream
        waiting."""
        for _ in range(min(BEATS, len(self._unbeaten))):
            peer = self._unbeaten.popleft()
            if self.fleet.get(peer) is None or self.requests.reachable(peer):
                continue
            if self.fleet.silent(now, peer):
                self.requests.changed(now, self.fleet.drop(peer, "it hung up"))

    def _without_ours(self, now: float, peer: Peer, message: Tokens) -> Tokens:
        """What is left for clients' requests."""
        if not self.canary.busy:
            return message
        rest: list[TokenItem] = []
        for item in message.items:
            if self.canary.mine(item.request):
                self._send(self.canary.token(now, peer, item))
            else:
                rest.append(item)
        return replace(message, items=rest)

    def _send(self, sends: list[Send]) -> None:
        for peer, message in sends:
            self._mailbox.send(peer, message)

    def _answer(self, peer: Peer, message: object | None) -> None:
        if message is not None:
            self._mailbox.send(peer, message)
