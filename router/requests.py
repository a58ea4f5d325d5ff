"""The requests in hand: carries out what ``Dispatch`` decides, on mailbox, ledger and feeds.

Knows nodes only as peers that can be sent to and be lost; knows no HTTP and no task. Decisions made while
others are being carried out wait for their turn, so that the nodes see them in the order they were made in.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from pagewire.errors import DeadlineExceeded, PagewireError, RequestFailed
from pagewire.mailbox import Peer
from pagewire.messages import PREFILL, Beat, Failed, Load, PagesChanged, RequestId, Spans, TokenItem, Tokens
from router.actions import Action, ChoiceEnd, Closed, End, Handed, Open, Stop
from router.admission import Ticket
from router.backlog import Backlog
from router.failures import cut_off
from router.feed import Delta, Feed
from router.fleet import Change, Fleet, NodeJoined, NodeLost, NodeTurned
from router.generation import Generation
from router.inflight import Inflight
from router.metrics import Metrics
from router.placement import Pair, Query, Rules, Tried
from router.placing import Placing
from router.reach import Link
from router.recorder import Recorder
from router.room import Capacities, Size
from router.skew import TOO_OLD, too_new

LINGER_S = 0.2  # for spans that come after the last token
PROMPT_LINGER_S = 1.0  # for the prompt's log-probabilities, without which there is no answer

log = logging.getLogger("pagewire.router")


class Mailbox(Protocol):
    async def receive(self) -> tuple[Peer, Any]: ...

    def send(self, peer: Peer, message: object) -> bool: ...


class Requests:
    """``clock`` gives seconds that never go back."""

    def __init__(
        self, fleet: Fleet, mailbox: Mailbox, metrics: Metrics, clock: Callable[[], float], rules: Rules
    ) -> None:
        self.clock = clock
        self.backlog = Backlog()
        self.capacities = Capacities(fleet)
        self.placing = Placing(fleet, mailbox.send, rules, metrics)
        self.ledger = self.placing.ledger
        self.reach = self.placing.reach
        self.came_through: Callable[[float, Link], None] = lambda now, link: None  # told of each handoff
        self.recorder = Recorder()
        self.recorder.observers.append(metrics.told)
        self._fleet = fleet
        self._mailbox = mailbox
        self._metrics = metrics
        self._inflight: dict[RequestId, Inflight] = {}
        self._owners: dict[RequestId, Generation] = {}
        self._work: deque[tuple[Inflight, Action]] = deque()
        self._working = False

    def __len__(self) -> int:
        return len(self._inflight)

    def __iter__(self) -> Iterator[Inflight]:
        return iter(self._inflight.values())

    def start(self, now: float, feed: Feed, members: list[Inflight], ticket: Ticket) -> Generation:
        """Take ``members`` in, with the ticket that each gives a place back of when it ends."""
        generation = Generation(feed, members, ticket, self.cancel, self.clock)
        ticket.keep()
        for member in members:
            job = member.dispatch.job
            self._inflight[job.request] = member
            self._owners[job.request] = generation
            self._metrics.taken(member.prompt_tokens)
            assert job.sampling.max_tokens is not None
            size = Size(member.prompt_tokens, job.sampling.n, job.sampling.max_tokens)
            self.backlog.join(now, job.request, ticket.tenant, size, job.priority)
        self._send(now)
        return generation

    def _send(self, now: float) -> None:
        """Send out those whose turn it is, as far as the nodes have use for them."""
        if not self.backlog:
            return
        capacity = self.capacities.at(now)
        while (request := self.backlog.next(now, capacity)) is not None:
            member = self._inflight[request]
            member.sent_at = now
            self._act(member, member.dispatch.start(now))

    def cancel(self, member: Inflight, error: PagewireError | None = None) -> None:
        if member.dispatch.job.request in self._inflight:
            self._act(member, member.dispatch.cancel(error))
            self._send(self.clock())

    def fail_all(self, error: PagewireError) -> None:
        """Those that wait first, so that none of them is sent out in the place of another."""
        for member in sorted(self._inflight.values(), key=lambda member: member.sent_at is not None):
            self.cancel(member, error)
        self.recorder.flush()

    def choose(self, query: Query, tried: Tried) -> Pair | None:
        return self.placing.choose(self.clock(), query, tried)

    def reachable(self, peer: Peer) -> bool:
        """Send a heartbeat."""
        beat = Beat(self._fleet.router, self._fleet.epoch, Load(running=len(self._inflight)))
        return self._mailbox.send(peer, beat)

    # --- events ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        self.placing.tick(now)
        for member in list(self._inflight.values()):
            if member.ended_at is not None:
                self._settle(now, member)
            elif member.sent_at is not None:
                self._act(member, member.dispatch.tick(now))
            elif now >= member.dispatch.job.deadline:
                late = DeadlineExceeded("the request's turn did not come in the time that it was given")
                self._act(member, member.dispatch.cancel(late))
        self._send(now)
        self.recorder.tick(now)

    def tokens(self, now: float, peer: Peer, message: Tokens) -> None:
        """Counts first, then tokens: a last token may end the request."""
        for spans in message.spans:
            if spans.role == PREFILL:
                self._handed_over(spans)
            if member := self._inflight.get(spans.request):
                member.spans(spans)
            else:
                self.recorder.spans(spans)
        for prompt in message.prompt_logprobs:
            if member := self._inflight.get(prompt.request):
                self._publish(member, member.prompt_read(prompt, peer.node))
        for item in message.items:
            if member := self._inflight.get(item.request):
                self._act(member, member.dispatch.token(now, peer, item))
            else:
                self._metrics.late_tokens.inc()
        told = {s.request for s in message.spans} | {p.request for p in message.prompt_logprobs}
        for request in told:
            if (member := self._inflight.get(request)) is not None and member.ended_at is not None:
                self._settle(now, member)
        self._send(now)

    def _handed_over(self, spans: Spans) -> None:
        member = self._inflight.get(spans.request) or self.recorder.member(spans.request)
        self.placing.handed_over(spans, None if member is None else member.dispatch.pairs.get(spans.attempt))

    def failed(self, now: float, peer: Peer, message: Failed) -> None:
        """An attempt failed, perhaps because one of its nodes is dead: see before another is made there."""
        member = self._inflight.get(message.request)
        if member is None:
            return
        log.warning("%s on %s: %s (%s)", message.request, peer.node, message.message, message.code)
        pair = member.dispatch.pairs.get(message.attempt)
        for node in pair[:2] if pair is not None else ():
            if not self.reachable(node):
                self.changed(now, self._fleet.drop(node, "it hung up"))
        if pair is not None and peer == pair.prefill and cut_off(message):
            self._cut_off(now, pair, message)
        self._act(member, member.dispatch.failed(now, peer, message))
        self._send(now)

    def _cut_off(self, now: float, pair: Pair, message: Failed) -> None:
        """The two nodes did not reach each other, though we reach both: for other requests to know."""
        if any(self._fleet.get(node) is None for node in pair[:2]):
            return
        if self.reach.failed(now, pair[:2], (message.request, message.attempt)):
            names = pair.prefill.node, pair.decode.node
            log.warning("%s and %s do not reach each other (%s): others go first", *names, message.code)

    def pages(self, now: float, peer: Peer, message: PagesChanged) -> None:
        self.placing.told(now, peer, message)

    def changed(self, now: float, changes: Sequence[Change]) -> None:
        for change in changes:
            match change:
                case NodeJoined(peer):
                    log.info("%s joined", peer.node)
                    self.placing.joined(now, peer)
                    self._look_again(now)
                case NodeTurned(peer, role, draining):
                    log.info("%s %s", peer.node, "is draining" if draining else f"is a {role} node now")
                    self._look_again(now)
                case NodeLost(peer, role, reason):
                    log.warning("%s lost: %s", peer.node, reason)
                    self.placing.lost(peer)
                    self._metrics.lost.labels(role).inc()
                    for member in list(self._inflight.values()):
                        self._act(member, member.dispatch.lost(now, peer))

    def _look_again(self, now: float) -> None:
        """There are nodes that were not there: some of what was let out may wait for them."""
        for member in [m for m in self._inflight.values() if m.sent_at is not None]:
            self._act(member, member.dispatch.tick(now))

    # --- actions --------------------------------------------------------------------------------------------

    def _act(self, member: Inflight, actions: Sequence[Action]) -> None:
        """Carry out ``actions`` after those that are still to be done, and then what follows from them."""
        if not self._working and len(actions) == 1 and isinstance(actions[0], TokenItem):
            self._token(member, actions[0])  # nearly always: nothing is before it, and its words go out
            return
        for action in actions:
            self._work.append((member, action))
        if self._working:
            return
        self._working = True
        try:
            while self._work:
                self._carry_out(*self._work.popleft())
        finally:
            self._working = False

    def _carry_out(self, member: Inflight, action: Action) -> None:
        request = member.dispatch.job.request
        match action:
            case TokenItem() as item:
                self._token(member, item)
            case Open(pair, _, message) as opened:
                self.placing.opened(self.clock(), opened)
                if message.attempt > 0:
                    self._metrics.retries.inc()
                if why := too_new(message, map(self._fleet.get, pair[:2])):
                    failed = Failed(*pair.prefill, request, message.attempt, TOO_OLD, why, retryable=True)
                    self._act(member, member.dispatch.failed(self.clock(), pair.prefill, failed))
                elif not self._mailbox.send(pair.prefill, message):
                    self.changed(self.clock(), self._fleet.drop(pair.prefill, "it cannot be reached"))
            case Stop(peer, cancel):
                self._mailbox.send(peer, cancel)
            case Handed(attempt):
                self.placing.handed(request, attempt)
                self._came_through(member.dispatch.pairs[attempt])
            case Closed(attempt):
                self.placing.closed(request, attempt, member.dispatch.pairs[attempt])
            case ChoiceEnd() as end:
                self._metrics.finished.labels(member.choices[end.choice].finish or end.reason).inc()
                self._publish(member, member.choice_end(end))
            case End(error):
                self._ended(member, error)

    def _came_through(self, pair: Pair) -> None:
        self.came_through(self.clock(), pair[:2])
        if self.reach.reached(pair[:2]):
            log.info("%s and %s reach each other again", pair.prefill.node, pair.decode.node)

    def _token(self, member: Inflight, item: TokenItem) -> None:
        now, choice = self.clock(), member.choices[item.choice]
        if choice.finish:
            return
        if member.first_at is None:
            self.backlog.read(now, item.request)
            self._owners[item.request].ticket.began(now - member.arrived)
            self._metrics.first_token(now - member.arrived, member.dispatch.predicted_ttft_ms)
        elif choice.last_at is not None:
            self._metrics.gap.observe(now - choice.last_at)
            if choice.tokens == 1:
                self._metrics.ttst.observe(now - choice.last_at)
        self._metrics.generation_tokens.inc()
        self._publish(member, member.token(now, item))
        if choice.text.stopped_by is not None:
            self._act(member, member.dispatch.stop(now, item.choice))

    def _publish(self, member: Inflight, deltas: list[Delta]) -> None:
        """Hand ``deltas`` to the reader. One that reads too slowly has no further use for the request."""
        feed = self._owners[member.dispatch.job.request].feed
        for delta in deltas:
            if not feed.put(delta):
                self._act(member, member.dispatch.cancel())
                return

    def _ended(self, member: Inflight, error: PagewireError | None) -> None:
        now = self.clock()
        member.ended_at = now
        self.backlog.leave(now, member.dispatch.job.request)
        self._metrics.e2e.observe(now - member.arrived)
        if error is None and all(choice.finish for choice in member.choices):
            self._settle(now, member)
            return
        if error is not None:
            self._metrics.failed.labels(error.code).inc()
        self._retire(member, error)

    def _settle(self, now: float, member: Inflight) -> None:
        """Let go of an ended request once the reply has all it needs, or has waited long enough for it."""
        assert member.ended_at is not None
        waited = now - member.ended_at
        if member.settled or (waited >= LINGER_S and not member.prompt_missing):
            if member.cached_tokens is not None:
                self._metrics.cached(member.prompt_tokens, member.cached_tokens)
            self._retire(member, None)
        elif waited >= PROMPT_LINGER_S:
            self._retire(member, RequestFailed("the prompt's log-probabilities were lost"))

    def _retire(self, member: Inflight, error: PagewireError | None) -> None:
        request = member.dispatch.job.request
        del self._inflight[request]
        owner = self._owners.pop(request)
        owner.running -= 1
        owner.ticket.leave()
        self.recorder.ended(self.clock(), member, error)
        if error is not None:
            owner.feed.close(error)
        elif owner.running == 0:
            owner.feed.close()
