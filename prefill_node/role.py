"""What a prefill node does: take -> reserve -> compute -> stream pages -> release.

With ``decode_node.role`` the only place that knows both the engine and the handoff. No prompt is computed
before a decode node has granted room for it. The engine sees ordinary sequences with a budget of one token; a
finished sequence's lease stays with its job until the decode node has adopted the pages.
"""

from __future__ import annotations

from collections.abc import Iterator

from kv_transfer import Done, Granted, Lost, Refused, Sender, SenderEvent, gauges
from pagewire.engine.engine import Finished, StepOutput
from pagewire.engine.sequence import Sequence, sequence_of
from pagewire.engine.slots import slots_of
from pagewire.errors import RequestError
from pagewire.mailbox import NODE_TO_NODE
from pagewire.messages import PREFILL, Cancel, FirstTokens, NodeId, PrefillRequest, PromptLogprobs, Spans
from pagewire.node_role import Desk, Share
from pagewire.replies import token_item
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


class PrefillRole:
    """See ``pagewire.node_role.Role``."""

    def __init__(self, desk: Desk, sender: Sender) -> None:
        self._desk = desk
        self._engine = desk.engine
        self._layers = desk.hello.layout.layers
        self._sender = sender
        self._jobs = Jobs()
        self._events: list[SenderEvent] = []  # that came in the middle of a step

    # --- what routers say -----------------------------------------------------------------------------------

    def take(self, router: NodeId, request: PrefillRequest, now: float) -> None:
        job = Job.taken_in(router, request, now)
        self._jobs.add(job)
        if not job.hands_over:
            job.watch.lap(QUEUE, now)
            self._admit(job)

    def cancel(self, cancel: Cancel) -> None:
        """A choice alone is the decode node's to stop."""
        job = self._jobs.get((cancel.request, cancel.attempt))
        if job is not None and cancel.choice is None:
            self._drop(job, "cancelled")

    def lost(self, router: NodeId) -> None:
        for job in self._jobs:
            if job.router == router:
                self._drop(job, "router_lost")

    # --- around a step --------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        for event in [*self._events, *self._sender.poll(now)]:
            self._transferred(event, now)
        self._events.clear()
        self._expire(now)
        self._reserve(now)

    @property
    def looks(self) -> int:
        return self._sender.layer_group

    def watch(self, out: StepOutput, layers: int) -> None:
        """The step is so many layers deep: what is new in the pages goes out while the next ones compute."""
        now = self._desk.clock()
        if layers == 0:
            self._begin(out, now)
        else:
            for seq, _, end, pages in out.computed:
                self._publish(seq, pages, end, layers)
        if self._sender.open_transfers:
            self._events += self._sender.poll(now)

    def reply(self, out: StepOutput, began: float) -> None:
        now, replies = self._desk.clock(), self._desk.replies
        for seq, scores in out.prompt_logprobs:
            reply = PromptLogprobs(seq.request, seq.attempt, scores.logprobs, scores.top)
            replies.prompt(self._jobs.of(seq).router, reply)
        for token in out.tokens:
            replies.token(self._jobs.of(token.seq).router, token_item(token))
        for finished in out.finished:
            self._finished(finished, now)

    # --- about what is in hand ------------------------------------------------------------------------------

    def owns(self, seq: Sequence) -> bool:
        return (seq.request, seq.attempt) in self._jobs

    def deadlines(self) -> Iterator[float]:
        return (job.deadline for job in self._jobs)

    def share(self) -> Share:
        queued = [job for job in self._jobs if job.queued]
        return Share(
            waiting=len(queued),
            queued_tokens=sum(len(job.request.tokens) for job in queued),
            transfers=self._sender.open_transfers,
            gauges={"jobs": len(self._jobs)} | gauges(self._sender),
        )

    def fail_all(self, code: str, message: str) -> None:
        for job in self._jobs:
            self._fail(job, code, message)

    # --- the engine -----------------------------------------------------------------------------------------

    def _admit(self, job: Job) -> None:
        job.seq = sequence_of(job.request, self._engine.config.max_model_len, budget=1)
        try:
            self._engine.admit(job.seq)
        except RequestError as error:
            job.seq = None
            self._fail(job, error.code, str(error), retryable=False)

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
                self._redeem(job)
            self._publish(seq, pages, start, self._layers)

    def _publish(self, seq: Sequence, pages: list[int], tokens: int, layers: int) -> None:
        if (transfer := self._jobs.of(seq).transfer) is not None:
            slots = slots_of(pages, tokens, self._engine.config.page_size)
            self._sender.publish(transfer, slots, tokens, layers)

    def _finished(self, finished: Finished, now: float) -> None:
        """The engine is done with a sequence: commit its handoff, or end it if nothing is left to decode."""
        job = self._jobs.of(finished.seq)
        job.seq, job.lease = None, finished.lease
        if finished.error:
            self._fail(job, finished.code, finished.error, retryable=False)
            return
        job.watch.lap(PREFILL_COMPUTE, now)
        self._desk.replies.spans(job.router, self._spans(job))
        if job.transfer is not None and finished.live:
            first = FirstTokens([token_item(token) for token in finished.live])
            self._sender.commit(job.transfer, NODE_TO_NODE.encode(first), now)
        else:
            self._drop(job, "nothing_to_decode")

    # --- the handoff ----------------------------------------------------------------------------------------

    def _reserve(self, now: float) -> None:
        """Ask for room on the decode side, about one batch ahead of the computation."""
        engine = self._engine
        computing = [seq.remaining for seq in engine.scheduler.sequences()]
        for job in due(self._jobs, computing, engine.config.max_batch_tokens):
            if not self._pledge(job):
                return
            job.watch.lap(QUEUE, now)
            tokens, payload = len(job.request.tokens), NODE_TO_NODE.encode(job.handoff(now))
            address, left = job.request.decode.address, job.deadline - now
            self._jobs.bind(job, self._sender.reserve(address, tokens, payload, left, now))

    def _pledge(self, job: Job) -> bool:
        """Make sure of the pages that reading it takes here, where those come first (``pagewire.pledges``).
        False if they are not to be had yet.
        """
        pledges = self._desk.pledges
        if pledges is None or job.request.decode.node < self._desk.hello.node:
            return True
        pool = self._engine.pool
        pages = min(pool.pages_for(len(job.request.tokens)), pool.num_pages)  # too long: the engine says so
        if pages + pledges.total > self._engine.scheduler.spare_pages:
            return False
        pledges.keep(job.key, pages)
        return True

    def _redeem(self, job: Job) -> None:
        """What was pledged to it is its own now, or nobody's."""
        if self._desk.pledges is not None:
            self._desk.pledges.release(job.key)

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
                self._desk.pace.handoff(job.watch.ms[RESERVE], stats.exposed_ms, worked, stats.bytes)
                self._desk.replies.spans(job.router, self._spans(job))
                self._forget(job)
            case Refused(code=code, reason=reason, retryable=retryable):
                self._fail(job, code, reason, retryable=retryable)
            case Lost(code=code, reason=reason):
                self._fail(job, code, reason)

    # --- endings --------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        for job in self._jobs:
            if now >= job.deadline:
                self._fail(job, "deadline_exceeded", "the request's deadline passed", retryable=False)

    def _fail(self, job: Job, code: str, message: str, *, retryable: bool = True) -> None:
        self._desk.failed(job.router, job.key, code, message, retryable=retryable)
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
        self._redeem(job)
        self._jobs.remove(job)

    def _spans(self, job: Job) -> Spans:
        hello = self._desk.hello
        return Spans(*job.key, hello.node, PREFILL, hello.pid, dict(job.watch.ms), dict(job.counts))
