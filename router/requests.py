"""The requests in hand: carries out what ``Dispatch`` decides, on mailbox, ledger and feeds.

Knows nodes only as peers that can be sent to and be lost; knows no HTTP and no task. Decisions made while
others are being carried out wait for their turn, so that the nodes see them in the order they were made in.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from pagewire.errors import PagewireError, RequestFailed
from pagewire.mailbox import Peer
from pagewire.messages import Beat, Failed, Load, RequestId, TokenItem, Tokens
from router.actions import Action, ChoiceEnd, Closed, End, Handed, Open, Stop
from router.failures import cut_off
from router.feed import Delta, Feed
from router.fleet import Change, Fleet, NodeJoined, NodeLost
from router.inflight import Inflight
from router.metrics import Metrics
from router.placement import Ledger, Pair, Query, Tried, choose
from router.reach import Reach
from router.recorder import Recorder

LINGER_S = 0.2  # for spans that come after the last token
PROMPT_LINGER_S = 1.0  # for the prompt's log-probabilities, without which there is no answer

log = logging.getLogger("pagewire.router")


class Mailbox(Protocol):
    async def receive(self) -> tuple[Peer, Any]: ...

    def send(self, peer: Peer, message: object) -> bool: ...


class Generation:
    """One HTTP request: one ``Inflight`` a prompt, and the feed that they share."""

    def __init__(self, requests: Requests, feed: Feed, members: list[Inflight]) -> None:
        self.feed = feed
        self.members = members
        self.running = len(members)
        self.choices = sum(len(member.choices) for member in members)
        self._requests = requests

    def cancel(self) -> None:
        """Nobody reads any more. Does nothing once all has ended."""
        for member in self.members:
            self._requests.cancel(member)

    def timing(self) -> Any:
        """The ``timing`` of the reply: an object, or for several prompts a list of them."""
        found = [member.timing(self._requests.clock()) for member in self.members]
        return found[0] if len(found) == 1 else found


class Requests:
    """``clock`` gives seconds that never go back."""

    def __init__(self, fleet: Fleet, mailbox: Mailbox, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.ledger = Ledger()
        self.reach = Reach()
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

    def start(self, now: float, feed: Feed, members: list[Inflight]) -> Generation:
        generation = Generation(self, feed, members)
        for member in members:
            self._inflight[member.dispatch.job.request] = member
            self._owners[member.dispatch.job.request] = generation
            self._metrics.taken(member.prompt_tokens)
        for member in members:
            self._act(member, member.dispatch.start(now))
        return generation

    def cancel(self, member: Inflight, error: PagewireError | None = None) -> None:
        if member.dispatch.job.request in self._inflight:
            self._act(member, member.dispatch.cancel(error))

    def fail_all(self, error: PagewireError) -> None:
        for member in list(self._inflight.values()):
            self.cancel(member, error)
        self.recorder.flush()

    def choose(self, query: Query, tried: Tried) -> Pair | None:
        return choose(self.clock(), self._fleet, self.ledger, self.reach, query, tried)

    def reachable(self, peer: Peer) -> bool:
        """Send a heartbeat."""
        beat = Beat(self._fleet.router, self._fleet.epoch, Load(running=len(self._inflight)))
        return self._mailbox.send(peer, beat)

    # --- events ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        for member in list(self._inflight.values()):
            if member.ended_at is None:
                self._act(member, member.dispatch.tick(now))
            else:
                self._settle(now, member)
        self.recorder.tick(now)

    def tokens(self, now: float, peer: Peer, message: Tokens) -> None:
        """Counts first, then tokens: a last token may end the request."""
        for spans in message.spans:
            self._metrics.handed_over(spans)
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

    def _cut_off(self, now: float, pair: Pair, message: Failed) -> None:
        """The two nodes did not reach each other, though we reach both: for other requests to know."""
        if any(self._fleet.get(node) is None for node in pair[:2]):
            return
        if self.reach.failed(now, pair[:2], (message.request, message.attempt)):
            names = pair.prefill.node, pair.decode.node
            log.warning("%s and %s do not reach each other (%s): others go first", *names, message.code)

    def changed(self, now: float, changes: Sequence[Change]) -> None:
        for change in changes:
            match change:
                case NodeJoined(peer):
                    log.info("%s joined", peer.node)
                    for member in list(self._inflight.values()):
                        self._act(member, member.dispatch.tick(now))
                case NodeLost(peer, role, reason):
                    log.warning("%s lost: %s", peer.node, reason)
                    if self._fleet.get(peer) is None:  # else it lives, and has only begun a new session
                        self.reach.forget(peer)
                    self._metrics.lost.labels(role).inc()
                    for member in list(self._inflight.values()):
                        self._act(member, member.dispatch.lost(now, peer))

    # --- actions --------------------------------------------------------------------------------------------

    def _act(self, member: Inflight, actions: Sequence[Action]) -> None:
        """Carry out ``actions`` after those that are still to be done, and then what follows from them."""
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
            case Open(pair, query, message):
                self.ledger.opened(request, message.attempt, pair, query)
                self.reach.opened(pair[:2], (request, message.attempt))
                if message.attempt > 0:
                    self._metrics.retries.inc()
                if not self._mailbox.send(pair.prefill, message):
                    self.changed(self.clock(), self._fleet.drop(pair.prefill, "it cannot be reached"))
            case Stop(peer, cancel):
                self._mailbox.send(peer, cancel)
            case Handed(attempt):
                self.ledger.handed(request, attempt)
                self._came_through(member.dispatch.pairs[attempt])
            case Closed(attempt):
                self.ledger.closed(request, attempt)
                self.reach.closed(member.dispatch.pairs[attempt][:2], (request, attempt))
            case ChoiceEnd() as end:
                self._metrics.finished.labels(member.choices[end.choice].finish or end.reason).inc()
                self._publish(member, member.choice_end(end))
            case End(error):
                self._ended(member, error)

    def _came_through(self, pair: Pair) -> None:
        if self.reach.reached(pair[:2]):
            log.info("%s and %s reach each other again", pair.prefill.node, pair.decode.node)

    def _token(self, member: Inflight, item: TokenItem) -> None:
        now, choice = self.clock(), member.choices[item.choice]
        if choice.finish:
            return
        if member.first_at is None:
            self._metrics.ttft.observe(now - member.arrived)
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
        if not all(feed.put(delta) for delta in deltas):
            self._act(member, member.dispatch.cancel())

    def _ended(self, member: Inflight, error: PagewireError | None) -> None:
        now = self.clock()
        member.ended_at = now
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
        self.recorder.ended(self.clock(), member, error)
        if error is not None:
            owner.feed.close(error)
        elif owner.running == 0:
            owner.feed.close()
