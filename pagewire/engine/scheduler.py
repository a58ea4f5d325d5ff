"""What the next step computes: continuous batching with chunked prefill and preemption.

Knows sequences, page counts and budgets. Knows no clock, no tensor, no sampling and no role. The server
drives it with real steps, the planner with simulated ones.

A sequence is waiting or running. One that arrives with its KV present waits only for a place in the batch;
one that has none waits for pages as well. Running sequences stand in the order of their start, and when pages
run out an earlier one takes them from a later one, never the other way round: one can always go on.

Of the tokens of a step, the shortest prompts get theirs first, so that nobody waits for a long one to be read
as a whole; but the oldest one running gets half of every step, and one that waits is passed only so often.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import NamedTuple

from pagewire.config import EngineConfig
from pagewire.engine.pages import PageLease, PagePool
from pagewire.engine.prefix_cache import PrefixCache
from pagewire.engine.sequence import Sequence
from pagewire.engine.turns import count_skips, next_to_start, sure


class Work(NamedTuple):
    """Compute the tokens [start, end) of ``seq``, whose lease covers them."""

    seq: Sequence
    start: int
    end: int

    @property
    def samples(self) -> bool:
        """True if the last row's logits choose the next token. Ask before that token is appended."""
        return self.end == len(self.seq.tokens)

    @property
    def scores_prompt(self) -> bool:
        """True if every row's logits are wanted, to tell the log-probabilities of the prompt."""
        return scores_prompt(self.seq)

    @property
    def logit_rows(self) -> int:
        """How many of the work's last rows have their logits taken."""
        return self.end - self.start if self.scores_prompt else int(self.samples)


class Plan(NamedTuple):
    """One step. ``preempted`` lost their pages and wait again; none of them is in ``work``."""

    work: list[Work]
    preempted: list[Sequence]


class Scheduler:
    def __init__(self, config: EngineConfig, pool: PagePool, cache: PrefixCache) -> None:
        assert config.max_batch_tokens > 0
        assert config.max_num_seqs > 0
        self.config = config
        self.pool = pool
        self.cache = cache
        self.running: list[Sequence] = []  # in the order of their start
        self.arrived: deque[Sequence] = deque()  # waiting, with their KV present
        self.waiting: deque[Sequence] = deque()  # waiting, with no page; the preempted ones in front

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.arrived or self.waiting)

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def num_waiting(self) -> int:
        return len(self.arrived) + len(self.waiting)

    @property
    def queued_tokens(self) -> int:
        """Tokens to compute before all that are here can sample, leaving out running decodes."""
        prefill = sum(seq.remaining for seq in self.running if seq.remaining > 1)
        return prefill + sum(seq.remaining for seq in self.waiting)

    @property
    def spare_pages(self) -> int:
        """Available pages, less those that running sequences need for their tokens and one more for each.

        Without that margin a newcomer would take the last page, and be preempted in the next step. May be
        negative.
        """
        owed = sum(
            max(0, self.pool.pages_for(len(seq.tokens)) - len(seq.lease.pages))
            for seq in self.running
            if seq.lease is not None
        )
        return self.pool.available - owed - len(self.running)

    def sequences(self) -> list[Sequence]:
        """All that are here, the running ones first."""
        return [*self.running, *self.arrived, *self.waiting]

    def fits(self, seq: Sequence) -> bool:
        """True if ``seq`` can run to its end with the whole pool to itself."""
        return self.pool.pages_for(max(seq.max_len, len(seq.tokens))) <= self.pool.num_pages

    def admit(self, seq: Sequence) -> None:
        """Take in a sequence that ``fits``: with a lease and ``num_computed`` > 0, or with neither.

        One with a lease has all but its last token computed by the time of the next ``schedule``.
        """
        assert self.fits(seq)
        assert (seq.lease is not None) == (seq.num_computed > 0)
        if seq.lease is not None:
            self.arrived.append(seq)
        elif seq.preemptions:
            self.waiting.appendleft(seq)
        else:
            self.waiting.append(seq)

    def remove(self, seq: Sequence) -> PageLease | None:
        """Forget ``seq``, in any state or unknown. Its lease, if it has one, is the caller's to release."""
        for queue in (self.running, self.arrived, self.waiting):
            if seq in queue:
                queue.remove(seq)
                break
        lease, seq.lease = seq.lease, None
        return lease

    def schedule(self) -> Plan:
        """Decide the next step and take the pages for it. Follow with ``advance`` once it is computed.

        First the running decodes, then the running prefills, then those that wait; each in order. A few
        tokens of prompts at a time beside decodes: Sarathi-Serve's stall-free batching (Agrawal et al. 2024).
        The plan has work whenever there is any, unless leases outside the scheduler hold the pages, or
        sequences whose last token is drawn but not seen yet.
        """
        plan = Plan([], [])
        self._start_arrived()
        budget = self.config.max_batch_tokens
        decodes = [seq for seq in self.running if seq.remaining == 1][:budget]
        self._plan_running(dict.fromkeys(decodes, 1), plan)
        budget -= len(plan.work)
        if self.config.max_mixed_tokens is not None and any(work.seq.num_output for work in plan.work):
            budget = min(budget, self.config.max_mixed_tokens)
        self._plan_prompts(budget, plan)
        return plan

    def advance(self, plan: Plan) -> None:
        """The plan's tokens are computed: count them and publish the pages that became full."""
        for seq, start, end in plan.work:
            if seq.ended:  # by a token that was seen only after the plan was made
                continue
            assert seq.num_computed == start
            seq.num_computed = end
            self.cache.publish(seq)

    def _start_arrived(self) -> None:
        """Let arrived sequences run, but keep a place in a busy batch for each preempted one to return to."""
        preempted = sum(1 for _ in takewhile(lambda seq: seq.preemptions, self.waiting))
        while self.arrived:
            reserved = preempted if self.running else 0
            if len(self.running) + reserved >= self.config.max_num_seqs:
                return
            assert self.arrived[0].remaining > 0
            self.running.append(self.arrived.popleft())

    def _plan_prompts(self, budget: int, plan: Plan) -> None:
        """Share ``budget`` tokens out among the prompts that are being read and those that wait."""
        prompts = [seq for seq in self.running if seq.remaining > 1]
        shares = dict.fromkeys(prompts, 0)  # in the order of their start, which counts when pages run out
        left = budget
        if prompts:
            shares[prompts[0]] = sure(prompts[0], budget)
            left -= shares[prompts[0]]
        for seq in sorted(prompts, key=lambda seq: seq.remaining):
            left -= self._plan_waiting(left, plan, below=seq.remaining)
            more = min(left, seq.remaining - shares[seq])
            shares[seq] += more
            left -= more
        left += sum(shares.values()) - self._plan_running(shares, plan)
        self._plan_waiting(left, plan)

    def _plan_running(self, shares: dict[Sequence, int], plan: Plan) -> int:
        """Plan so many tokens of each of ``shares``, as far as the pages allow; return the tokens spent."""
        planned = {work.seq for work in plan.work}
        spent = 0
        for seq, share in shares.items():
            if seq.lease is None or not share:  # preempted for an earlier one, or not its turn
                continue
            end = seq.num_computed + share
            if self._grow(seq, end, planned, plan):
                planned.add(seq)
                plan.work.append(Work(seq, seq.num_computed, end))
                spent += share
        return spent

    def _grow(self, seq: Sequence, end: int, planned: set[Sequence], plan: Plan) -> bool:
        """Cover ``end`` tokens with pages, preempting if need be; False if ``seq`` must sit this step out.

        It keeps its pages then: they are taken from it only when an earlier one needs them.
        """
        assert seq.lease is not None
        missing = self.pool.pages_for(end) - len(seq.lease.pages)
        if missing <= 0:
            return True
        while not self.pool.grow(seq.lease, missing):
            if (victim := self._victim(seq, planned)) is None:
                return False
            self._preempt(victim, plan)
        return True

    def _victim(self, seq: Sequence, planned: set[Sequence]) -> Sequence | None:
        """Who gives up its pages for ``seq``: the last to come, but nobody earlier, already planned, or with
        nothing left to compute: its end is near.
        """
        if self.arrived:
            return self.arrived[-1]
        for other in reversed(self.running):
            if other is seq:
                return None
            if other not in planned and other.remaining:
                return other
        raise AssertionError("seq is not running")

    def _preempt(self, seq: Sequence, plan: Plan) -> None:
        lease = self.remove(seq)
        assert lease is not None
        self.pool.release(lease)
        seq.num_computed = 0
        seq.preemptions += 1
        self.waiting.appendleft(seq)
        plan.preempted.append(seq)

    def _plan_waiting(self, budget: int, plan: Plan, below: int | None = None) -> int:
        """Start waiting sequences, each only once all its tokens find room, and none if somebody has just
        been preempted; with ``below``, only those with fewer tokens. Return the tokens spent.
        """
        left = budget
        while self.waiting and left and not plan.preempted and len(self.running) < self.config.max_num_seqs:
            seq = next_to_start(self.waiting, self.config.max_batch_tokens)
            if (below is not None and len(seq.tokens) >= below) or not self._start(seq):
                break
            count_skips(self.waiting, seq)
            self.waiting.remove(seq)
            self.running.append(seq)
            end = min(len(seq.tokens), seq.num_computed + left)
            assert seq.lease is not None
            grown = self.pool.grow(seq.lease, self.pool.pages_for(end) - len(seq.lease.pages))
            assert grown
            plan.work.append(Work(seq, seq.num_computed, end))
            left -= end - seq.num_computed
        return budget - left

    def _start(self, seq: Sequence) -> bool:
        """Give ``seq`` a lease on its prefix hit, if its other tokens fit beside what is running."""
        scored = scores_prompt(seq)  # then every row must be computed
        pages = [] if scored else self.cache.match(seq.tokens, seq.cache_salt, seq.page_hashes)
        new_pages = self.pool.pages_for(len(seq.tokens)) - len(pages) + self.pool.reclaimable(pages)
        if new_pages > self.spare_pages:
            return False
        seq.lease = self.pool.lease()
        self.pool.share(seq.lease, pages)
        seq.num_computed = len(pages) * self.pool.page_size
        if not seq.preemptions:
            seq.prefix_hit = seq.num_computed
            self.cache.count(len(seq.tokens), seq.prefix_hit)
        return True


def scores_prompt(seq: Sequence) -> bool:
    return seq.sampling.prompt_logprobs is not None and seq.num_output == 0
