"""The prefill node's loop: take -> reserve -> compute -> stream pages -> release.

With ``decode_node.loop`` the only place that knows both the engine and the handoff. No prompt is computed
before a decode node has granted room for it. The engine sees ordinary sequences with a budget of one token; a
finished sequence's lease stays with its job until the decode node has adopted the pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from kv_transfer import Done, Granted, Lost, Refused, Sender, SenderEvent, gauges
from pagewire.attempts import Attempts
from pagewire.engine.engine import Engine, Finished, StepOutput
from pagewire.engine.sequence import Sequence, sequence_of
from pagewire.engine.slots import slots_of
from pagewire.errors import RequestError
from pagewire.mailbox import NODE_TO_NODE, RouterLost
from pagewire.messages import (
    PREFILL,
    Cancel,
    Failed,
    FirstTokens,
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
from pagewire.timeline import (
    CACHED_TOKENS,
    PREFILL_COMPUTE,
    QUEUE,
    RESERVE,
    TRANSFER_BYTES,
    TRANSFER_EXPOSED,
    TRANSFER_FRAMES,
    TRANSFER_HIDDEN,
)
from prefill_node.jobs import Job, Jobs
from prefill_node.turns import due


class PrefillNode:
    """``turn`` is one round of the loop. ``clock`` gives monotonic seconds."""

    def __init__(
        self, hello: Hello, engine: Engine, sender: Sender, outbox: Outbox, clock: Callable[[], float]
    ) -> None:
        self._hello = hello
        self._layers = hello.layout.layers
        self._engine = engine
        self._sender = sender
        self._outbox = outbox
        self._clock = clock
        self._replies = Replies(hello)
        self._jobs = Jobs()
        self._attempts = Attempts()
        self._report_at = 0.0
        self._pages = PageFeed(hello, engine.pool, outbox.send)
        self._pace = Pace()
        self._events: list[SenderEvent] = []  # that came in the middle of a step

    def turn(self) -> bool:
        """One round. False if nothing was computed: the caller may sleep until something arrives."""
        now = self._clock()
        for router, message in self._outbox.drain():
            self._receive(router, message, now)
        for event in [*self._events, *self._sender.poll(now)]:
            self._transferred(event, now)
        self._events.clear()
        self._expire(now)
        self._reserve(now)
        began = self._clock()
        out = self._engine.step(self._stream, self._sender.layer_group)
        self._pace.step(out.computed, (self._clock() - began) * 1000)
        self._reply(out)
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
        return max(0.0, min((job.deadline for job in self._jobs), default=math.inf) - now)

    def load(self) -> Load:
        accounts, scheduler = self._engine.accounts(), self._engine.scheduler
        queued = [job for job in self._jobs if job.queued]
        return Load(
            waiting=len(queued) + scheduler.num_waiting,
            running=scheduler.num_running,
            queued_tokens=sum(len(job.request.tokens) for job in queued) + scheduler.queued_tokens,
            pages_free=accounts.free + accounts.cached,
            pages_total=accounts.total,
            transfers=self._sender.open_transfers,
            steps=self._engine.steps,
            gauges={"jobs": len(self._jobs)}
            | self._engine.gauges()
            | gauges(self._sender)
            | self._pace.gauges(),
        )

    def fail_all(self, code: str, message: str) -> None:
        """Give every job back to its router, to be done elsewhere: this node is about to stop."""
        for job in self._jobs:
            self._fail(job, code, message)

    # --- messages -------------------------------------------------------------------------------------------

    def _receive(self, router: NodeId, message: object, now: float) -> None:
        match message:
            case PrefillRequest(request, attempt):
                if self._attempts.begin(request, attempt):
                    self._take(Job.taken_in(router, message, now), now)
            case Cancel(request, attempt, None):
                if (job := self._jobs.get((request, attempt))) is not None:
                    self._drop(job, "cancelled")
            case PagesWanted():
                self._pages.wanted(router, message)
            case RouterLost(lost):
                self._pages.lost(lost)
                for job in self._jobs:
                    if job.router == lost:
                        self._drop(job, "router_lost")

    def _take(self, job: Job, now: float) -> None:
        self._jobs.add(job)
        if not job.hands_over:
            job.watch.lap(QUEUE, now)
            self._admit(job)

    def _admit(self, job: Job) -> None:
        job.seq = sequence_of(job.request, self._engine.config.max_model_len, budget=1)
        try:
            self._engine.admit(job.seq)
        except RequestError as error:
            job.seq = None
            self._fail(job, error.code, str(error), retryable=False)

    # --- the handoff ----------------------------------------------------------------------------------------

    def _reserve(self, now: float) -> None:
        """Ask for room on the decode side, about one batch ahead of the computation."""
        engine = self._engine
        computing = [seq.remaining for seq in engine.scheduler.sequences()]
        for job in due(self._jobs, computing, engine.config.max_batch_tokens):
            job.watch.lap(QUEUE, now)
            tokens, payload = len(job.request.tokens), NODE_TO_NODE.encode(job.handoff(now))
            address, left = job.request.decode.address, job.deadline - now
            self._jobs.bind(job, self._sender.reserve(address, tokens, payload, left, now))

    def _transferred(self, event: Granted | Refused | Done | Lost, now: float) -> None:
        job = self._jobs.moving(event.transfer)
        if job is None:
            return
        match event:
            case Granted():
                job.watch.lap(RESERVE, now)
                self._admit(job)
            case Done(stats=stats):
                job.watch.ms |= {TRANSFER_HIDDEN: stats.hidden_ms, TRANSFER_EXPOSED: stats.exposed_ms}
                job.counts |= {TRANSFER_BYTES: stats.bytes, TRANSFER_FRAMES: stats.frames}
                worked = stats.hidden_ms + stats.exposed_ms
                self._pace.handoff(job.watch.ms[RESERVE], stats.exposed_ms, worked, stats.bytes)
                self._replies.spans(job.router, self._spans(job))
                self._forget(job)
            case Refused(code=code, reason=reason, retryable=retryable):
                self._fail(job, code, reason, retryable=retryable)
            case Lost(code=code, reason=reason):
                self._fail(job, code, reason)

    def _stream(self, out: StepOutput, layers: int) -> None:
        """The step is so many layers deep: what is new in the pages goes out while the next ones compute."""
        now = self._clock()
        if layers == 0:
            self._begin(out, now)
        else:
            for seq, _, end, pages in out.computed:
                self._publish(seq, pages, end, layers)
        if self._sender.open_transfers:
            self._events += self._sender.poll(now)

    def _begin(self, out: StepOutput, now: float) -> None:
        """Tell the sender which pages are no longer theirs; what is cached of a prompt can go at once."""
        for seq in out.preempted:
            if (transfer := self._jobs.of(seq).transfer) is not None:
                self._sender.retract(transfer)
        for seq, start, _, pages in out.computed:
            job = self._jobs.of(seq)
            if PREFILL_COMPUTE not in job.watch.ms:
                job.watch.lap(QUEUE, now)
                job.watch.add(PREFILL_COMPUTE, 0.0)
                job.counts[CACHED_TOKENS] = start
            self._publish(seq, pages, start, self._layers)

    def _publish(self, seq: Sequence, pages: list[int], tokens: int, layers: int) -> None:
        if (transfer := self._jobs.of(seq).transfer) is not None:
            slots = slots_of(pages, tokens, self._engine.config.page_size)
            self._sender.publish(transfer, slots, tokens, layers)

    def _reply(self, out: StepOutput) -> None:
        now = self._clock()
        for seq, scores in out.prompt_logprobs:
            reply = PromptLogprobs(seq.request, seq.attempt, scores.logprobs, scores.top)
            self._replies.prompt(self._jobs.of(seq).router, reply)
        for token in out.tokens:
            self._replies.token(self._jobs.of(token.seq).router, token_item(token))
        for finished in out.finished:
            self._finished(finished, now)
        self._replies.flush(self._outbox)

    def _finished(self, finished: Finished, now: float) -> None:
        """The engine is done with a sequence: commit its handoff, or end it if nothing is left to decode."""
        job = self._jobs.of(finished.seq)
        job.seq, job.lease = None, finished.lease
        if finished.error:
            self._fail(job, finished.code, finished.error, retryable=False)
            return
        job.watch.lap(PREFILL_COMPUTE, now)
        self._replies.spans(job.router, self._spans(job))
        if job.transfer is not None and finished.live:
            first = FirstTokens([token_item(token) for token in finished.live])
            self._sender.commit(job.transfer, NODE_TO_NODE.encode(first), now)
        else:
            self._drop(job, "nothing_to_decode")

    # --- endings --------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        for job in self._jobs:
            if now >= job.deadline:
                self._fail(job, "deadline_exceeded", "the request's deadline passed", retryable=False)

    def _fail(self, job: Job, code: str, message: str, *, retryable: bool = True) -> None:
        node, epoch = self._hello.node, self._hello.epoch
        self._outbox.send(job.router, Failed(node, epoch, *job.key, code, message, retryable))
        self._drop(job, code)

    def _drop(self, job: Job, code: str) -> None:
        if job.transfer is not None:
            self._sender.abort(job.transfer, code, "the prefill node ended it")
        self._forget(job)

    def _forget(self, job: Job) -> None:
        """The one place where a job ends and its pages go back."""
        lease = job.lease if job.seq is None else self._engine.abort(job.seq)
        if lease is not None:
            self._engine.pool.release(lease)
        self._jobs.remove(job)

    def _spans(self, job: Job) -> Spans:
        hello = self._hello
        return Spans(*job.key, hello.node, PREFILL, hello.pid, dict(job.watch.ms), dict(job.counts))
