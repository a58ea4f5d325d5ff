"""The decode node's loop: reserve -> land -> adopt -> compute -> reply.

With ``prefill_node.loop`` the only place that knows both the engine and the handoff. A request enters the
engine when its KV has arrived whole and checked, as a sequence with all of its prompt computed; or, when a
router finds no prefill node for it, as one with nothing computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from decode_node.landing import Arrival, Key, Landing
from decode_node.reading import Reading
from kv_transfer import Dropped, Landed, Receiver, ReceiverEvent, Reserved, gauges
from pagewire.attempts import Attempts
from pagewire.engine.engine import Engine, Finished, StepOutput
from pagewire.engine.pages import PageLease
from pagewire.engine.sequence import sequence_of
from pagewire.engine.slots import slots_of
from pagewire.errors import RemoteProtocolError, RequestError
from pagewire.mailbox import NODE_TO_NODE, RouterLost
from pagewire.messages import (
    DECODE,
    Cancel,
    Failed,
    FirstTokens,
    Handoff,
    Hello,
    Load,
    NodeId,
    PagesWanted,
    PrefillRequest,
    PromptLogprobs,
    Spans,
)
from pagewire.pace import Pace
from pagewire.page_feed import PageFeed
from pagewire.replies import REPORT_EVERY_S, Outbox, Replies, token_item
from pagewire.timeline import FIRST_STEP, LANDING, QUEUE, Stopwatch

LAYERS_A_LOOK = 4  # layers of a step between two looks at what arrives


@dataclass(slots=True, eq=False)
class Live:
    """An attempt that was adopted, or is read here. ``open`` counts its choices that still run."""

    router: NodeId
    deadline: float
    watch: Stopwatch
    open: int
    reading: Reading | None = None


class DecodeNode:
    """``turn`` is one round of the loop. ``clock`` gives monotonic seconds."""

    def __init__(
        self, hello: Hello, engine: Engine, receiver: Receiver, outbox: Outbox, clock: Callable[[], float]
    ) -> None:
        self._hello = hello
        self._layers = hello.layout.layers
        self._engine = engine
        self._receiver = receiver
        self._outbox = outbox
        self._clock = clock
        self._replies = Replies(hello)
        self._landing = Landing(engine)
        self._events: list[ReceiverEvent] = []  # that came in the middle of a step
        self._live: dict[Key, Live] = {}
        self._attempts = Attempts()
        self._report_at = 0.0
        self._pages = PageFeed(hello, engine.pool, outbox.send)
        self._pace = Pace()

    def turn(self) -> bool:
        """One round. False if nothing was computed: the caller may sleep until something arrives."""
        now = self._clock()
        for router, message in self._outbox.drain():
            self._receive(router, message, now)
        for event in [*self._events, *self._receiver.poll(now)]:
            self._transferred(event, now)
        self._events.clear()
        self._expire(now)
        self._grant(now)
        looks = LAYERS_A_LOOK if self._receiver.open_transfers else self._layers
        began = self._clock()
        out = self._engine.step(self._land, looks)
        self._pace.step(out.computed, (self._clock() - began) * 1000)
        self._reply(out, now)
        self._report(now, busy=bool(out.computed))
        return out.worked

    def _report(self, now: float, *, busy: bool) -> None:
        """While steps follow each other, no more often than heartbeats can carry it."""
        self._pages.tell(now, busy=busy)
        if not busy or now >= self._report_at:
            self._report_at = now + REPORT_EVERY_S
            self._outbox.report(self.load())

    def due_in(self, now: float) -> float:
        """Seconds until the next deadline of a request that is here; infinite if there is none."""
        due = min((each.deadline for each in (*self._landing, *self._live.values())), default=math.inf)
        return max(0.0, due - now)

    def load(self) -> Load:
        accounts, scheduler = self._engine.accounts(), self._engine.scheduler
        return Load(
            waiting=self._landing.num_waiting + scheduler.num_waiting,
            running=scheduler.num_running,
            queued_tokens=scheduler.queued_tokens,
            pages_free=accounts.free + accounts.cached,
            pages_total=accounts.total,
            transfers=self._receiver.open_transfers,
            steps=self._engine.steps,
            gauges={"landing": len(self._landing), "live": len(self._live)}
            | self._engine.gauges()
            | gauges(self._receiver)
            | self._pace.gauges(),
        )

    def fail_all(self, code: str, message: str) -> None:
        """Give every request back to its router, to be done elsewhere: this node is about to stop."""
        for arrival in self._landing:
            self._drop_arrival(arrival, code)
        for key, live in list(self._live.items()):
            self._fail(key, live, code, message)

    # --- messages -------------------------------------------------------------------------------------------

    def _receive(self, router: NodeId, message: object, now: float) -> None:
        match message:
            case PrefillRequest(request, attempt):
                if self._attempts.begin(request, attempt):
                    self._read(router, message, now)
            case Cancel(request, attempt, None):
                self._cancel(lambda key, _: key == (request, attempt))
            case Cancel(request, attempt, int(choice)):
                self._cut((request, attempt), choice)
            case PagesWanted():
                self._pages.wanted(router, message)
            case RouterLost(lost):
                self._pages.lost(lost)
                self._cancel(lambda _, owner: owner == lost)

    def _cancel(self, wanted: Callable[[Key, NodeId], bool]) -> None:
        for arrival in self._landing:
            if wanted(arrival.key, arrival.router):
                self._drop_arrival(arrival, "cancelled")
        for key, live in list(self._live.items()):
            if wanted(key, live.router):
                self._drop_live(key)

    def _cut(self, key: Key, choice: int) -> None:
        """One of an attempt's choices is over for its client; the others go on."""
        for arrival in self._landing:
            if arrival.key == key:
                arrival.cut.add(choice)
        for seq in self._engine.sequences(*key):
            if seq.choices == [choice]:
                self._release(self._engine.abort(seq))
                self._ended(key, self._live[key])

    def _read(self, router: NodeId, request: PrefillRequest, now: float) -> None:
        """Do all of it here: there is no prefill node for it."""
        key = request.request, request.attempt
        deadline = now + request.deadline_ms / 1000
        live = Live(router, deadline, Stopwatch(now), len(request.choices), Reading(Stopwatch(now)))
        self._live[key] = live
        try:
            self._engine.admit(sequence_of(request, self._engine.config.max_model_len))
        except RequestError as error:
            self._fail(key, live, error.code, str(error), retryable=False)

    # --- the handoff ----------------------------------------------------------------------------------------

    def _transferred(self, event: Reserved | Landed | Dropped, now: float) -> None:
        match event:
            case Reserved():
                self._expect(event, now)
            case Landed(transfer=transfer, payload=payload):
                if (arrival := self._landing.get(transfer)) is not None:
                    self._adopt(arrival, payload, now)
            case Dropped(transfer=transfer):
                if (gone := self._landing.take(transfer)) is not None:
                    self._release(gone.lease)

    def _land(self, out: StepOutput, layers: int) -> None:
        """The step is so many layers deep: take in what arrived meanwhile, so that senders have credit."""
        now = self._clock()
        if self._receiver.open_transfers:
            self._events += self._receiver.poll(now)

    def _expect(self, event: Reserved, now: float) -> None:
        try:
            handoff = NODE_TO_NODE.decode_as(Handoff, event.payload)
            if len(handoff.request.tokens) != event.num_tokens:
                raise RemoteProtocolError("the reservation is not for the request's tokens")
            if not self._attempts.begin(handoff.request.request, handoff.request.attempt):
                raise RemoteProtocolError("this attempt was begun here before")
            self._landing.expect(event.transfer, handoff, now)
        except (RemoteProtocolError, RequestError) as error:
            self._receiver.refuse(event.transfer, error.code, str(error), retryable=False)

    def _grant(self, now: float) -> None:
        for arrival in self._landing.grant():
            assert arrival.lease is not None
            arrival.watch.mark = now
            slots = slots_of(arrival.lease.pages, len(arrival.seq.tokens), self._engine.config.page_size)
            if not self._receiver.grant(arrival.transfer, arrival.seq.prefix_hit, slots):
                self._landing.take(arrival.transfer)
                self._release(arrival.lease)

    def _adopt(self, arrival: Arrival, payload: bytes, now: float) -> None:
        """The prompt's KV is here and checked: the sequence goes on as if it had been computed here."""
        try:
            first = NODE_TO_NODE.decode_as(FirstTokens, payload)
            if any(not 0 <= item.token < self._engine.runner.vocab_size for item in first.items):
                raise RemoteProtocolError("a first token is no token of this model")
        except RemoteProtocolError as error:
            self._drop_arrival(arrival, error.code)
            return
        going_on = set(arrival.seq.choices) - arrival.cut
        items = [item for item in first.items if item.choice in going_on]
        if not items:
            self._drop_arrival(arrival, "cancelled")
            return
        self._landing.take(arrival.transfer)
        if not self._receiver.adopt(arrival.transfer):
            self._release(arrival.lease)
            return
        assert self._landing.intact(arrival), "pages were given away while they were filled"
        seq = arrival.seq
        arrival.watch.lap(LANDING, now)
        live = Live(arrival.router, arrival.deadline, arrival.watch, len(items))
        self._live[arrival.key] = live
        seq.lease, seq.num_computed = arrival.lease, len(seq.tokens)
        seq.choices = [item.choice for item in items]
        self._engine.adopt(seq, [(item.choice, item.token) for item in items])
        for item in items:  # the router drops what it has; this covers a prefill node that died
            self._replies.token(arrival.router, item)

    # --- replies and endings --------------------------------------------------------------------------------

    def _reply(self, out: StepOutput, began: float) -> None:
        now = self._clock()
        for seq, start, _, _ in out.computed:
            if (reading := self._live[seq.request, seq.attempt].reading) is not None:
                reading.computed(start, began)
        for seq, scores in out.prompt_logprobs:
            reply = PromptLogprobs(seq.request, seq.attempt, scores.logprobs, scores.top)
            self._replies.prompt(self._live[seq.request, seq.attempt].router, reply)
        for token in out.tokens:
            router = self._live[token.seq.request, token.seq.attempt].router
            self._replies.token(router, token_item(token))
        for key in {(token.seq.request, token.seq.attempt) for token in out.tokens}:
            self._time(key, self._live[key], began, now)
        for finished in out.finished:
            self._finished(finished)
        self._replies.flush(self._outbox)

    def _time(self, key: Key, live: Live, began: float, now: float) -> None:
        """Its first tokens are there: say what they took."""
        if live.reading is not None:
            self._replies.spans(live.router, live.reading.spans(key, self._hello, now))
            live.reading, live.watch.mark = None, now
        elif FIRST_STEP not in live.watch.ms:
            live.watch.lap(QUEUE, began)
            live.watch.lap(FIRST_STEP, now)
            self._replies.spans(live.router, self._spans(key, live))

    def _finished(self, finished: Finished) -> None:
        self._engine.pool.release(finished.lease)
        key = finished.seq.request, finished.seq.attempt
        live = self._live.get(key)
        if live is None:  # another choice of it has just failed
            return
        if finished.error:
            self._fail(key, live, finished.code, finished.error, retryable=False)
        else:
            self._ended(key, live)

    def _ended(self, key: Key, live: Live) -> None:
        """One choice less. The attempt is forgotten with its last."""
        live.open -= 1
        if not live.open:
            del self._live[key]

    def _expire(self, now: float) -> None:
        for arrival in self._landing:
            if now >= arrival.deadline:
                self._drop_arrival(arrival, "deadline_exceeded")
        for key, live in list(self._live.items()):
            if now >= live.deadline:
                reason = "the request's deadline passed"
                self._fail(key, live, "deadline_exceeded", reason, retryable=False)

    def _fail(self, key: Key, live: Live, code: str, message: str, *, retryable: bool = True) -> None:
        node, epoch = self._hello.node, self._hello.epoch
        self._outbox.send(live.router, Failed(node, epoch, *key, code, message, retryable))
        self._drop_live(key)

    def _drop_arrival(self, arrival: Arrival, code: str) -> None:
        """The prefill node tells the router, if it is alive and still cares."""
        self._receiver.abort(arrival.transfer, code, "the decode node ended it")
        self._landing.take(arrival.transfer)
        self._release(arrival.lease)

    def _drop_live(self, key: Key) -> None:
        for seq in self._engine.sequences(*key):
            self._release(self._engine.abort(seq))
        del self._live[key]

    def _release(self, lease: PageLease | None) -> None:
        if lease is not None:
            self._engine.pool.release(lease)

    def _spans(self, key: Key, live: Live) -> Spans:
        hello = self._hello
        return Spans(*key, hello.node, DECODE, hello.pid, dict(live.watch.ms), {})
