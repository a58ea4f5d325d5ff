"""What a decode node does: reserve -> land -> adopt -> compute -> reply.

With ``prefill_node.role`` the only place that knows both the engine and the handoff. A request enters the
engine when its KV has arrived whole and checked, as a sequence with all of its prompt computed; or, when a
router finds no prefill node for it, as one with nothing computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from decode_node.landing import Arrival, Landing
from decode_node.live import Live
from decode_node.reading import Reading
from kv_transfer import Dropped, Landed, Receiver, ReceiverEvent, Reserved, gauges
from pagewire.engine.engine import Finished, StepOutput
from pagewire.engine.pages import PageLease
from pagewire.engine.sequence import Sequence, sequence_of
from pagewire.engine.slots import slots_of
from pagewire.errors import RemoteProtocolError, RequestError
from pagewire.mailbox import NODE_TO_NODE
from pagewire.messages import Cancel, FirstTokens, Handoff, NodeId, PrefillRequest, PromptLogprobs
from pagewire.node_role import Desk, Key, Share
from pagewire.replies import token_item
from pagewire.timeline import LANDING, Stopwatch

LAYERS_A_LOOK = 4  # layers of a step between two looks at what arrives


class DecodeRole:
    """See ``pagewire.node_role.Role``."""

    def __init__(self, desk: Desk, receiver: Receiver) -> None:
        self._desk = desk
        self._engine = desk.engine
        self._receiver = receiver
        self._landing = Landing(desk.engine, desk.pledges)
        self._events: list[ReceiverEvent] = []  # that came in the middle of a step
        self._live: dict[Key, Live] = {}

    # --- what routers say -----------------------------------------------------------------------------------

    def take(self, router: NodeId, request: PrefillRequest, now: float) -> None:
        """Do all of it here: there is no prefill node for it."""
        key = request.request, request.attempt
        deadline = now + request.deadline_ms / 1000
        live = Live(router, deadline, Stopwatch(now), len(request.choices), Reading(Stopwatch(now)))
        self._live[key] = live
        try:
            self._engine.admit(sequence_of(request, self._engine.config.max_model_len))
        except RequestError as error:
            self._fail(key, live, error.code, str(error), retryable=False)

    def cancel(self, cancel: Cancel) -> None:
        key = cancel.request, cancel.attempt
        if cancel.choice is None:
            self._drop_all(lambda each, _: each == key, "cancelled")
        else:
            self._cut(key, cancel.choice)

    def lost(self, router: NodeId) -> None:
        self._drop_all(lambda _, owner: owner == router, "router_lost")

    # --- around a step --------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        for event in [*self._events, *self._receiver.poll(now)]:
            self._transferred(event, now)
        self._events.clear()
        self._expire(now)
        self._grant(now)

    @property
    def looks(self) -> int:
        return LAYERS_A_LOOK if self._receiver.open_transfers else self._desk.hello.layout.layers

    def watch(self, out: StepOutput, layers: int) -> None:
        """The step is so many layers deep: take in what arrived meanwhile, so that senders have credit."""
        if self._receiver.open_transfers:
            self._events += self._receiver.poll(self._desk.clock())

    def reply(self, out: StepOutput, began: float) -> None:
        now, desk = self._desk.clock(), self._desk
        for seq, start, _, _ in out.computed:
            if (reading := self._live[seq.request, seq.attempt].reading) is not None:
                reading.computed(start, began)
        for seq, scores in out.prompt_logprobs:
            reply = PromptLogprobs(seq.request, seq.attempt, scores.logprobs, scores.top)
            desk.replies.prompt(self._live[seq.request, seq.attempt].router, reply)
        for token in out.tokens:
            router = self._live[token.seq.request, token.seq.attempt].router
            desk.replies.token(router, token_item(token))
        for key in {(token.seq.request, token.seq.attempt) for token in out.tokens}:
            live = self._live[key]
            if (spans := live.first_tokens(key, desk.hello, began, now)) is not None:
                desk.replies.spans(live.router, spans)
        for finished in out.finished:
            self._finished(finished)

    # --- about what is in hand ------------------------------------------------------------------------------

    def owns(self, seq: Sequence) -> bool:
        return (seq.request, seq.attempt) in self._live

    def deadlines(self) -> Iterator[float]:
        return (each.deadline for each in (*self._landing, *self._live.values()))

    def share(self) -> Share:
        return Share(
            waiting=self._landing.num_waiting,
            queued_tokens=0,
            transfers=self._receiver.open_transfers,
            gauges={"landing": len(self._landing), "live": len(self._live)} | gauges(self._receiver),
        )

    def fail_all(self, code: str, message: str) -> None:
        for arrival in self._landing:
            self._drop_arrival(arrival, code)
        for key, live in list(self._live.items()):
            self._fail(key, live, code, message)

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

    def _expect(self, event: Reserved, now: float) -> None:
        try:
            handoff = NODE_TO_NODE.decode_as(Handoff, event.payload)
            if len(handoff.request.tokens) != event.num_tokens:
                raise RemoteProtocolError("the reservation is not for the request's tokens")
            if not self._desk.attempts.begin(handoff.request.request, handoff.request.attempt):
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
            self._desk.replies.token(arrival.router, item)

    # --- endings --------------------------------------------------------------------------------------------

    def _drop_all(self, wanted: Callable[[Key, NodeId], bool], code: str) -> None:
        for arrival in self._landing:
            if wanted(arrival.key, arrival.router):
                self._drop_arrival(arrival, code)
        for key, live in list(self._live.items()):
            if wanted(key, live.router):
                self._drop_live(key)

    def _cut(self, key: Key, choice: int) -> None:
        """One of an attempt's choices is over for its client; the others go on."""
        for arrival in self._landing:
            if arrival.key == key:
                arrival.cut.add(choice)
        for seq in self._engine.sequences(*key):
            if seq.choices == [choice] and key in self._live:
                self._release(self._engine.abort(seq))
                self._ended(key, self._live[key])

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
        self._desk.failed(live.router, key, code, message, retryable=retryable)
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
