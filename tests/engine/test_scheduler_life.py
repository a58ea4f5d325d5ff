"""The scheduler with a make-believe model: whatever happens, the tokens are those of a run alone.

A slot of this KV memory holds a digest of all tokens up to its position. Computing a token reads the digest
before it, so that a page that was lost, mixed up or written by two shows in the tokens that come out.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import scheduler

from pagewire.engine.batch import build
from pagewire.engine.pages import PageLease
from pagewire.engine.scheduler import Plan, Work
from pagewire.engine.sequence import Sequence
from pagewire.engine.turns import MAX_SKIPS
from pagewire.messages import RequestId
from pagewire.sampling import SamplingParams

VOCABULARY = 50


def digest(before: int, token: int) -> int:
    return hash((before, token))


def next_token(state: int, choice: int) -> int:
    return (state + 7 * choice) % VOCABULARY


def alone(prompt: list[int], salt: str, choice: int, max_len: int) -> list[int]:
    """What the sequence says if it has the machine to itself."""
    tokens, state = list(prompt), len(salt)
    for token in prompt:
        state = digest(state, token)
    while len(tokens) < max_len:
        tokens.append(next_token(state, choice))
        state = digest(state, tokens[-1])
    return tokens


@dataclass
class Shape:
    """The machine of one run."""

    num_pages: int
    page_size: int
    budget: int
    seqs: int
    caching: bool
    mixed: int | None = None


shapes = st.builds(
    Shape,
    num_pages=st.integers(4, 24),
    page_size=st.integers(1, 5),
    budget=st.integers(1, 24),
    seqs=st.integers(1, 8),
    caching=st.booleans(),
    mixed=st.none() | st.integers(1, 8),
)


class World:
    """A scheduler, its KV memory, and clients that come, fork, abort and go as the dice say."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape, self.dice = shape, random.Random(seed)
        self.engine = scheduler(
            shape.num_pages, shape.page_size, shape.budget, shape.seqs, shape.caching, shape.mixed
        )
        self.pool = self.engine.pool
        self.memory: dict[int, int] = {}  # slot -> digest
        self.held: list[PageLease] = []  # finished elsewhere, not yet let go, like a transfer under way
        self.fresh: list[Sequence] = []  # in the order of their admission
        self.started: list[Sequence] = []
        self.done: list[Sequence] = []
        self.preemptions = 0

    # --- clients ---

    def prompt(self) -> tuple[list[int], int]:
        """A prompt, which often begins like another, and a length to stop at."""
        room = self.shape.num_pages * self.shape.page_size
        length = self.dice.randint(1, max(1, min(room - 1, 30)))
        family = self.dice.randint(0, 2)
        same = self.dice.randint(0, length)
        tokens = [family] * same + [self.dice.randrange(VOCABULARY) for _ in range(length - same)]
        return tokens, min(room, length + self.dice.randint(1, 20))

    def new(self, choices: list[int]) -> Sequence:
        tokens, max_len = self.prompt()
        salt = self.dice.choice(["", "s"])
        sampling = SamplingParams()
        return Sequence(
            RequestId("r"), 0, choices, tokens, len(tokens), sampling, 0, max_len, cache_salt=salt
        )

    def come(self) -> None:
        seq = self.new(list(range(self.dice.choice([1, 1, 1, 2, 3]))))
        self.fresh.append(seq)
        self.engine.admit(seq)

    def land(self) -> None:
        """A handoff arrives, if there are pages for it: all KV of the prompt, and the first token."""
        seq = self.new([self.dice.randint(0, 3)])
        lease = self.pool.lease()
        hit = self.engine.cache.match(seq.tokens, seq.cache_salt, seq.page_hashes)
        self.pool.share(lease, hit)
        if not self.pool.grow(lease, self.pool.pages_for(len(seq.tokens)) - len(hit)):
            self.pool.release(lease)
            return
        seq.lease, seq.num_computed = lease, len(hit) * self.shape.page_size
        self.compute(Work(seq, seq.num_computed, len(seq.tokens)))
        seq.num_computed = len(seq.tokens)
        self.engine.cache.publish(seq)
        self.engine.admit(seq)
        self.sampled(seq)

    def abort(self) -> None:
        if known := self.engine.sequences():
            seq = self.dice.choice(known)
            if seq in self.fresh and seq not in self.started:
                self.fresh.remove(seq)
            if (lease := self.engine.remove(seq)) is not None:
                self.pool.release(lease)

    def let_go(self) -> None:
        while self.held:
            self.pool.release(self.held.pop())

    # --- the model ---

    def slot(self, seq: Sequence, position: int) -> int:
        assert seq.lease is not None
        page, offset = divmod(position, self.shape.page_size)
        return seq.lease.pages[page] * self.shape.page_size + offset

    def state(self, seq: Sequence, end: int) -> int:
        """Digest of the first ``end`` tokens, read from the pages."""
        return self.memory[self.slot(seq, end - 1)] if end else len(seq.cache_salt)

    def compute(self, work: Work) -> None:
        seq = work.seq
        for position in range(work.start, work.end):
            self.memory[self.slot(seq, position)] = digest(self.state(seq, position), seq.tokens[position])

    def sampled(self, seq: Sequence) -> None:
        """Append the next token of each choice; the second and later ones branch off."""
        state = self.state(seq, len(seq.tokens))
        assert seq.lease is not None
        for choice in seq.choices[1:]:
            tokens = [*seq.tokens, next_token(state, choice)]
            child = Sequence(
                seq.request, 0, [choice], tokens, seq.num_prompt, seq.sampling, 0, seq.max_len,
                cache_salt=seq.cache_salt, page_hashes=list(seq.page_hashes),
            )  # fmt: skip
            if len(tokens) == seq.max_len:
                self.done.append(child)
                continue
            if (fork := self.pool.fork(seq.lease, seq.num_computed)) is not None:
                child.lease, child.num_computed = fork.lease, seq.num_computed
                for source, target in fork.copies:
                    self.copy(source, target)
            else:
                child.preemptions = 1
            self.engine.admit(child)
        seq.tokens.append(next_token(state, seq.choices[0]))
        del seq.choices[1:]
        if len(seq.tokens) == seq.max_len:
            lease = self.engine.remove(seq)
            assert lease is not None
            self.held.append(lease)
            self.done.append(seq)

    def copy(self, source: int, target: int) -> None:
        size = self.shape.page_size
        for offset in range(size):
            self.memory[target * size + offset] = self.memory.get(source * size + offset, 0)

    # --- a step and what must hold of it ---

    def step(self) -> Plan:
        plan = self.engine.schedule()
        self.check(plan)
        if plan.work:
            self.check_batch(plan)
        for work in plan.work:
            if work.seq in self.fresh and work.seq not in self.started:
                self.started.append(work.seq)
            self.compute(work)
        sampling = [work.seq for work in plan.work if work.samples]
        self.engine.advance(plan)
        for seq in sampling:
            self.sampled(seq)
        self.preemptions += len(plan.preempted)
        self.pool.check()
        return plan

    def check(self, plan: Plan) -> None:
        self.pool.check()
        works = [work.seq for work in plan.work]
        assert len(set(works)) == len(works)
        assert not set(works) & set(plan.preempted)
        assert set(works) <= set(self.engine.running)
        assert len(self.engine.running) <= self.shape.seqs
        assert all(work.start == work.seq.num_computed < work.end for work in plan.work)
        assert sum(work.end - work.start for work in plan.work) <= self.shape.budget
        assert all(seq.lease is None and seq.num_computed == 0 for seq in self.engine.waiting)
        leases = [seq.lease for seq in self.engine.sequences() if seq.lease] + self.held
        holders = Counter(page for lease in leases for page in lease.pages)
        for work in plan.work:  # only its own pages are written
            assert work.seq.lease is not None
            first = work.start // self.shape.page_size
            assert all(holders[page] == 1 for page in work.seq.lease.pages[first:])

    def check_batch(self, plan: Plan) -> None:
        batch = build(plan.work, self.shape.page_size)
        want = [self.slot(w.seq, position) for w in plan.work for position in range(w.start, w.end)]
        assert batch.slots.tolist() == want

    def drain(self) -> None:
        for _ in range(20_000):
            self.let_go()
            if not self.engine.has_work:
                return
            assert self.step().work, "work to do and every page to be had, but no progress"
        pytest.fail("it does not end")

    def live(self, steps: int) -> None:
        acts = [self.come, self.come, self.land, self.abort, self.let_go, self.step, self.step, self.step]
        for _ in range(steps):
            self.dice.choice(acts)()
        self.drain()


@settings(deadline=None, max_examples=120)
@given(shape=shapes, seed=st.integers(0, 1 << 30))
def test_every_token_is_that_of_a_run_alone(shape: Shape, seed: int) -> None:
    world = World(shape, seed)
    world.live(80)
    for seq in world.done:
        prompt = seq.tokens[: seq.num_prompt]
        assert seq.tokens == alone(prompt, seq.cache_salt, seq.choices[0], seq.max_len)


@settings(deadline=None, max_examples=60)
@given(shape=shapes, seed=st.integers(0, 1 << 30))
def test_no_page_is_held_once_all_has_ended(shape: Shape, seed: int) -> None:
    world = World(shape, seed)
    world.live(60)
    world.pool.check()
    assert world.pool.available == world.pool.num_pages


@settings(deadline=None, max_examples=60)
@given(shape=shapes, seed=st.integers(0, 1 << 30))
def test_a_fresh_sequence_is_passed_only_so_often(shape: Shape, seed: int) -> None:
    world = World(shape, seed)
    world.live(60)
    admitted = {id(seq): number for number, seq in enumerate(world.fresh)}
    started = [admitted[id(seq)] for seq in world.started]
    assert sorted(started) == list(range(len(world.fresh)))
    for place, number in enumerate(started):
        assert sum(before > number for before in started[:place]) <= MAX_SKIPS


@settings(deadline=None, max_examples=60)
@given(shape=shapes, seed=st.integers(0, 1 << 30))
def test_no_token_of_a_step_is_left_over_while_a_prompt_runs(shape: Shape, seed: int) -> None:
    """Unless pages are short, or decodes wait for the step."""
    world = World(replace(shape, num_pages=4000, mixed=None), seed)
    for _ in range(30):
        world.come()
        plan = world.step()
        spent = sum(work.end - work.start for work in plan.work)
        assert spent == shape.budget or not any(seq.remaining > 1 for seq in world.engine.running)


def test_hundreds_of_sequences_on_a_small_machine_end_after_many_preemptions() -> None:
    world = World(Shape(num_pages=24, page_size=4, budget=24, seqs=8, caching=True), seed=1)
    for _ in range(300):
        world.come()
    world.drain()
    assert len(world.done) >= 300
    assert world.preemptions > 20
