"""The engine: admits sequences, computes them in steps, hands back tokens and leases.

Knows sequences, pages and logits. Knows no role, no text, no clock and no socket: a prefill node gives a
sequence a budget of one token and takes its lease; a decode node brings one whose KV has arrived and adopts
the tokens that were sampled elsewhere; offline generation does neither. All three call the same ``admit`` and
``step``.

With asynchronous scheduling a step is given to the device before the tokens of the one before are looked at:
the host schedules while the device computes, as in SGLang's overlapped loop. What is drawn and not yet seen
is a promise in ``Sequence.tokens``. Where an answer hangs on more than a draw (a grammar, penalties,
log-probabilities, several choices) the step is looked at at once, as all are without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from pagewire.config import EngineConfig
from pagewire.engine.batch import build
from pagewire.engine.constraint import GRAMMAR_FAILED, Grammars, Matcher, advanced, matcher_of
from pagewire.engine.drawing import Drawn
from pagewire.engine.pages import PageAccounts, PageLease, PagePool
from pagewire.engine.prefix_cache import PrefixCache
from pagewire.engine.prompt_logprobs import PromptLogprobs, PromptScorer
from pagewire.engine.runner import ModelRunner
from pagewire.engine.sampler import InvalidLogits, Sampled, SampleRow, sample
from pagewire.engine.scheduler import Scheduler
from pagewire.engine.sequence import Sequence, promise
from pagewire.errors import PromptTooLong, RequestError
from pagewire.messages import RequestId
from pagewire.sampling import check_vocab


class Computed(NamedTuple):
    """Tokens [start, end) of ``seq`` get their KV in this step. ``pages`` lie in the order of its tokens."""

    seq: Sequence
    start: int
    end: int
    pages: list[int]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of one choice. ``index`` counts its output from 0; ``finish`` is "", "stop" or "length"."""

    seq: Sequence
    choice: int
    index: int
    sampled: Sampled
    finish: str
    stop_token: int


class Finished(NamedTuple):
    """The engine is done with ``seq``. Whoever reads this owns ``lease`` and releases it."""

    seq: Sequence
    lease: PageLease
    live: list[Token]  # the choices that go on elsewhere: their budget here was spent
    error: str = ""  # why it could not go on, if it failed
    code: str = ""  # the same in a word


@dataclass(slots=True)
class StepOutput:
    """What one step did: it began to compute ``computed``; ``tokens`` and what comes of them may be those of
    the step before. Empty if there was nothing to do.
    """

    computed: list[Computed] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    prompt_logprobs: list[tuple[Sequence, PromptLogprobs]] = field(default_factory=list)
    waits: bool = False  # for tokens that are being computed

    @property
    def worked(self) -> bool:
        """False if the next step will find nothing to do unless something arrives."""
        return bool(self.computed or self.tokens or self.finished or self.waits)


class Due(NamedTuple):
    """What a step draws: for whom, each with the position of its next token."""

    rows: list[tuple[Sequence, int]]
    drawn: Drawn


Watch = Callable[[StepOutput, int], None]
"""Told (what the step does, layers): with 0 before anything is computed, when it is known who was preempted,
and then from time to time, when ``computed`` is in the pages of so many layers, or will be when the device
has done what it was given. Called again and again with all layers while the host waits for the device. It
must leave the engine alone."""


class Engine:
    def __init__(
        self,
        config: EngineConfig,
        runner: ModelRunner,
        eos_token_ids: tuple[int, ...],
        grammars: Grammars | None = None,
    ) -> None:
        self.config = config
        self.pool = PagePool(config.num_pages, config.page_size)
        self.cache = PrefixCache(self.pool, enabled=config.prefix_caching)
        self.scheduler = Scheduler(config, self.pool, self.cache)
        self.runner = runner
        self.steps = 0
        self.preemptions = 0
        self._eos = eos_token_ids
        self.grammars = grammars
        self._scorer = PromptScorer()
        self._due: Due | None = None  # drawn by the step before

    @property
    def busy(self) -> bool:
        return self.scheduler.has_work

    def accounts(self) -> PageAccounts:
        return self.pool.accounts()

    def gauges(self) -> dict[str, float]:
        """Figures for people who watch."""
        stats, accounts = self.cache.stats, self.accounts()
        return {
            "pages_free": accounts.free,
            "pages_cached": accounts.cached,
            "pages_leased": accounts.leased,
            "prefix_cache_queried_tokens": stats.queried,
            "prefix_cache_hit_tokens": stats.hit,
            "preemptions": self.preemptions,
        }

    def check(self, seq: Sequence) -> None:
        """Raises RequestError if ``seq`` can never run here."""
        check_vocab(seq.sampling, self.runner.vocab_size)
        if not seq.tokens or not 0 <= min(seq.tokens) <= max(seq.tokens) < self.runner.vocab_size:
            raise RequestError(f"tokens must be ids in [0, {self.runner.vocab_size})", param="prompt")
        if not self.scheduler.fits(seq):
            raise PromptTooLong(
                f"a request of {seq.max_len} tokens needs more KV memory than this node has"
                f" ({self.config.num_pages * self.config.page_size} tokens)"
            )
        if seq.sampling.grammar is not None:
            if self.grammars is None:
                raise RequestError("grammars are not supported here", param="grammar")
            self.grammars.prepare(seq.sampling.grammar)

    def admit(self, seq: Sequence) -> None:
        """Take in a sequence, fresh or with its KV present. Raises RequestError if it can never run here."""
        self.check(seq)
        self.scheduler.admit(seq)

    def adopt(self, seq: Sequence, first: list[tuple[int, int]]) -> None:
        """Go on with ``seq``, whose KV is all present, from (choice, token) pairs sampled elsewhere."""
        assert seq.lease is not None
        assert seq.num_computed == len(seq.tokens)
        self.cache.publish(seq)
        self.admit(seq)
        self._branch(seq, first, [None] * len(first))

    def sequences(self, request: RequestId | None = None, attempt: int | None = None) -> list[Sequence]:
        """What is waiting or running, of one request or attempt if asked."""
        return [
            seq
            for seq in self.scheduler.sequences()
            if request in (None, seq.request) and attempt in (None, seq.attempt)
        ]

    def abort(self, seq: Sequence) -> PageLease | None:
        """Forget ``seq`` in whatever state it is. The lease, if it has one, is the caller's to release."""
        self._scorer.drop(seq)
        seq.ended = True
        return self.scheduler.remove(seq)

    def step(self, watch: Watch | None = None, every: int = 1) -> StepOutput:
        """Compute one batch. ``watch`` is called before it, after ``every`` layers, and after the last.

        "Compute" is "have it computed" on a device that works beside the host: what the host asks it to do
        with the pages from now on comes later.
        """
        plan = self.scheduler.schedule()
        out = StepOutput(preempted=plan.preempted)
        self.preemptions += len(plan.preempted)
        out.computed = [Computed(w.seq, w.start, w.end, _pages(w.seq)) for w in plan.work]
        if watch is not None:
            watch(out, 0)
        before, self._due = self._due, None
        if not plan.work:
            if before is not None and before.drawn.ready():
                self._see(before.rows, before.drawn.see(), out)
            elif before is not None:
                self._due, out.waits = before, True
            return out
        self.steps += 1
        batch = build(plan.work, self.config.page_size)
        logits = self.runner.forward(batch, None if watch is None else partial(watch, out), every)
        rows = self._scorer.take(plan.work, logits, out.prompt_logprobs)
        sampling = [work.seq for work in plan.work if work.samples]
        for seq in sampling:
            seq.matcher = matcher_of(seq, self.grammars)
        wanted = [SampleRow.of(seq, self._eos) for seq in sampling]
        places = [(seq, len(seq.tokens)) for seq in sampling]
        ahead = self.config.async_scheduling and all(
            row.on_device and len(row.choices) == 1 for row in wanted
        )
        due = Due(places, self.runner.draw(rows, wanted)) if ahead else None
        if before is not None:
            self._wait(before.drawn.ready, watch, out)
            self._see(before.rows, before.drawn.see(), out)
        self.scheduler.advance(plan)
        if due is not None:
            self._promise(due.rows)
            self._due = due
        else:
            self._wait(self.runner.mark().passed, watch, out)
            self._see(places, sample(rows, wanted, self.runner.threads), out)
        return out

    def _wait(self, passed: Callable[[], bool], watch: Watch | None, out: StepOutput) -> None:
        """While the device computes, whoever watches may do something else."""
        while watch is not None and not passed():
            watch(out, self.runner.layers)

    def _promise(self, rows: list[tuple[Sequence, int]]) -> None:
        """The tokens that are drawn now will be computed next, whatever they are."""
        for row, (seq, position) in enumerate(rows):
            if not (seq.ended or seq.budget == 1 or position + 1 >= seq.max_len):
                seq.tokens.append(promise(row))

    def _see(
        self, rows: list[tuple[Sequence, int]], results: list[list[Sampled] | InvalidLogits], out: StepOutput
    ) -> None:
        """Take in what a step has drawn."""
        for (seq, position), sampled in zip(rows, results, strict=True):
            if seq.ended:
                continue
            del seq.tokens[position:]  # what was promised
            if isinstance(sampled, InvalidLogits):
                self._end(seq, out, [], *_failure(seq))
            else:
                self._append(seq, sampled, out)

    def _append(self, seq: Sequence, sampled: list[Sampled], out: StepOutput) -> None:
        index = seq.num_output
        matchers = advanced(seq.matcher, [drawn.token for drawn in sampled])
        tokens = [
            Token(seq, choice, index, drawn, *self._finish(seq, drawn.token, matcher))
            for choice, drawn, matcher in zip(seq.choices, sampled, matchers, strict=True)
        ]
        out.tokens += tokens
        live = [token for token in tokens if not token.finish]
        going_on = [each for token, each in zip(tokens, matchers, strict=True) if not token.finish]
        if seq.budget is not None:
            seq.budget -= 1
        if not live or seq.budget == 0:
            self._end(seq, out, live)
        else:
            self._branch(seq, [(token.choice, token.sampled.token) for token in live], going_on)

    def _end(
        self, seq: Sequence, out: StepOutput, live: list[Token], error: str = "", code: str = ""
    ) -> None:
        lease = self.scheduler.remove(seq) or self.pool.lease()  # preempted before its end was seen
        seq.ended = True
        out.finished.append(Finished(seq, lease, live, error, code))

    def _finish(self, seq: Sequence, token: int, matcher: Matcher | None) -> tuple[str, int]:
        """(finish reason, the stop token or -1) if ``token`` comes next, with ``matcher`` behind it."""
        params = seq.sampling
        if token in params.stop_token_ids or (token in self._eos and not params.ignore_eos):
            return "stop", token
        if matcher is not None and matcher.stopped and not params.ignore_eos:
            return "stop", -1
        return ("length", -1) if len(seq.tokens) + 1 >= seq.max_len else ("", -1)

    def _branch(self, seq: Sequence, live: list[tuple[int, int]], matchers: list[Matcher | None]) -> None:
        """Append each live choice's token; the first goes on as ``seq``, the others as branches of it.

        A branch shares the full pages and gets a copy of the last, partial one. If there is no page for the
        copy, the branch waits like a preempted sequence and is computed anew.
        """
        for (choice, token), matcher in zip(live[1:], matchers[1:], strict=True):
            child = Sequence(
                seq.request,
                seq.attempt,
                [choice],
                [*seq.tokens, token],
                seq.num_prompt,
                seq.sampling,
                seq.seed,
                seq.max_len,
                cache_salt=seq.cache_salt,
                prefix_hit=seq.prefix_hit,
                page_hashes=list(seq.page_hashes),
                matcher=matcher,
            )
            assert seq.lease is not None
            if (fork := self.pool.fork(seq.lease, seq.num_computed)) is not None:
                self.runner.cache.copy_pages(fork.copies)
                child.lease, child.num_computed = fork.lease, seq.num_computed
            else:
                child.preemptions = seq.preemptions + 1
            self.scheduler.admit(child)
        seq.choices, token, seq.matcher = [live[0][0]], live[0][1], matchers[0]
        seq.tokens.append(token)


def _failure(seq: Sequence) -> tuple[str, str]:
    """Why nothing could be chosen for ``seq``, and the code of it."""
    if seq.matcher is not None and seq.matcher.error:
        return seq.matcher.error, GRAMMAR_FAILED
    return "the model gave logits that are not numbers", "bad_logits"


def _pages(seq: Sequence) -> list[int]:
    assert seq.lease is not None
    return seq.lease.pages
