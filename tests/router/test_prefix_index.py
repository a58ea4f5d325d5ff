from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pagewire.mailbox import Peer
from pagewire.messages import Epoch, NodeId, PagesChanged, PagesWanted
from pagewire.page_chain import pack
from router import prefix_index
from router.prefix_index import ASK_AGAIN_S, FORESEEN_S, PrefixIndex

SIZE = 4


def peer(name: str) -> Peer:
    return Peer(NodeId(name), Epoch("e"))


A, B = peer("a"), peer("b")


def label(number: int) -> bytes:
    return number.to_bytes(8, "little")


def prompt(*numbers: int) -> Callable[[int], Iterable[bytes]]:
    return lambda size: [label(n) for n in numbers] if size == SIZE else []


def news(who: Peer, stream: int, sequence: int, added: str = "", evicted: str = "") -> PagesChanged:
    """Labels are digits."""
    come, gone = (pack([label(int(digit)) for digit in digits]) for digits in (added, evicted))
    return PagesChanged(who.node, who.epoch, stream, sequence, come, gone)


def index(*peers: Peer, size: int = SIZE, pages: int = 16) -> PrefixIndex:
    made = PrefixIndex()
    for each in peers:
        assert made.join(0.0, each, size, pages) == PagesWanted(1)
    return made


def test_the_longest_run_from_the_beginning_counts() -> None:
    here = index(A, B)
    here.changed(0.0, A, news(A, 1, 0, "1235"))
    here.changed(0.0, B, news(B, 1, 0, "234"))
    assert here.match(prompt(1, 2, 3, 4, 5)) == {A: 3 * SIZE}
    assert here.match(prompt(2, 3, 4)) == {A: 2 * SIZE, B: 3 * SIZE}


def test_what_is_evicted_is_no_longer_found() -> None:
    here = index(A)
    here.changed(0.0, A, news(A, 1, 0, "123"))
    here.changed(0.0, A, news(A, 1, 1, "", "2"))
    assert here.match(prompt(1, 2, 3)) == {A: SIZE}


def test_a_prompt_is_read_no_further_than_anybody_holds_it() -> None:
    here, read = index(A), []
    here.changed(0.0, A, news(A, 1, 0, "12"))

    def labels(size: int) -> Iterable[bytes]:
        for number in range(1, 9):
            read.append(number)
            yield label(number)

    here.match(labels)
    assert read == [1, 2, 3]


def test_page_sizes_are_looked_up_each_in_its_own_chain() -> None:
    here = index(A)
    here.join(0.0, B, 8, 16)
    here.changed(0.0, A, news(A, 1, 0, "1"))
    here.changed(0.0, B, news(B, 1, 0, "5"))
    assert here.match(lambda size: [label(1 if size == SIZE else 5)]) == {A: SIZE, B: 8}


def test_a_gap_asks_for_a_new_stream_and_what_is_left_of_the_old_one_is_ignored() -> None:
    here = index(A)
    here.changed(0.0, A, news(A, 1, 0, "12"))
    assert here.changed(0.0, A, news(A, 1, 2, "4")) == PagesWanted(2)
    assert here.changed(0.0, A, news(A, 1, 3, "5")) is None
    assert here.changed(0.0, A, news(A, 2, 0, "1")) is None
    assert here.match(prompt(1, 2)) == {A: SIZE}


def test_a_node_that_does_not_answer_is_asked_again() -> None:
    here = index(A, B)
    here.changed(0.0, A, news(A, 1, 0))
    assert here.overdue(ASK_AGAIN_S / 2) == []
    assert here.overdue(ASK_AGAIN_S) == [(B, PagesWanted(2))]
    assert here.overdue(ASK_AGAIN_S) == []


def test_a_lost_node_holds_nothing_and_leaves_nothing() -> None:
    here = index(A, B)
    here.changed(0.0, A, news(A, 1, 0, "12"))
    here.changed(0.0, B, news(B, 1, 0, "1"))
    here.foresee(0.0, A, [label(3)])
    here.forget(A)
    assert here.match(prompt(1, 2, 3)) == {B: SIZE}
    here.forget(B)
    assert (len(here), here._holders) == (0, {})


def test_the_place_of_a_lost_node_is_taken_by_the_next() -> None:
    here = index(A, B)
    here.changed(0.0, B, news(B, 1, 0, "1"))
    here.forget(A)
    here.join(0.0, peer("c"), SIZE, 16)
    here.changed(0.0, peer("c"), news(peer("c"), 1, 0, "2"))
    assert here.match(prompt(1)) == {B: SIZE}
    assert here.match(prompt(2)) == {peer("c"): SIZE}


def test_a_prompt_on_its_way_is_found_for_a_while() -> None:
    here = index(A)
    here.foresee(0.0, A, [label(1), label(2)])
    assert here.match(prompt(1, 2)) == {A: 2 * SIZE}
    here.expire(FORESEEN_S)
    assert here.match(prompt(1, 2)) == {}


def test_what_the_node_tells_outlives_what_was_foreseen() -> None:
    here = index(A)
    here.changed(0.0, A, news(A, 1, 0))
    here.foresee(0.0, A, [label(1), label(2)])
    here.changed(1.0, A, news(A, 1, 1, "1"))
    here.expire(FORESEEN_S)
    assert here.match(prompt(1, 2)) == {A: SIZE}


def test_what_waits_in_a_queue_is_foreseen_for_longer() -> None:
    here = index(A)
    here.foresee(0.0, A, [label(1)], in_s=60.0)
    here.foresee(1.0, A, [label(2)])
    here.expire(1.0 + FORESEEN_S)
    assert here.match(prompt(1)) == {A: SIZE}
    assert here.match(prompt(2)) == {}
    here.expire(60.0 + FORESEEN_S)
    assert len(here) == 0


def test_what_is_foreseen_again_lives_on() -> None:
    here = index(A)
    here.foresee(0.0, A, [label(1)])
    here.foresee(5.0, A, [label(1)])
    here.expire(FORESEEN_S)
    assert here.match(prompt(1)) == {A: SIZE}


def test_no_node_fills_the_memory_of_the_router() -> None:
    here = index(A, pages=4)
    here.changed(0.0, A, news(A, 1, 0, "0123456789"))
    assert len(here) == 8


def test_the_first_to_end_of_what_is_foreseen_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_index, "MAX_FORESEEN", 2)
    here = index(A)
    here.foresee(0.0, A, [label(1), label(2), label(3)])
    assert here.match(prompt(1)) == {}
    assert here.match(prompt(2, 3)) == {A: 2 * SIZE}


class IndexMachine(RuleBasedStateMachine):
    """Nodes whose messages get lost, against what each of them really told."""

    numbers = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.index = PrefixIndex()
        self.truth: dict[Peer, dict[int, float]] = {}  # label -> foreseen until
        self.streams: dict[Peer, tuple[int, int]] = {}  # of the node: stream, next sequence
        self.cache: dict[Peer, set[int]] = {}  # what it holds
        self.known: dict[Peer, bool] = {}  # nothing was lost in this stream

    def ask(self, who: Peer, wanted: PagesWanted | None) -> None:
        if wanted is not None:
            self.streams[who], self.known[who] = (wanted.stream, 0), True
            self.tell(who, self.cache[who], set())

    def tell(self, who: Peer, added: set[int], evicted: set[int], *, lost: bool = False) -> None:
        stream, sequence = self.streams[who]
        self.streams[who] = stream, sequence + 1
        if lost:
            self.known[who] = False
            return
        digits = ["".join(map(str, sorted(numbers))) for numbers in (added, evicted)]
        wanted = self.index.changed(self.now, who, news(who, stream, sequence, *digits))
        if wanted is None and self.known[who]:
            if sequence == 0:
                self.truth[who] = {}
            self.truth[who] |= dict.fromkeys(added, math.inf)
            for number in evicted:
                self.truth[who].pop(number, None)
        assert (wanted is None) == self.known[who]
        self.ask(who, wanted)

    @rule(who=st.sampled_from([A, B]), held=st.sets(numbers))
    def join(self, who: Peer, held: set[int]) -> None:
        self.cache[who], self.truth[who] = held, {}
        self.ask(who, self.index.join(self.now, who, SIZE, 16))

    @rule(who=st.sampled_from([A, B]))
    def lose(self, who: Peer) -> None:
        self.index.forget(who)
        for part in (self.cache, self.truth, self.streams, self.known):
            part.pop(who, None)

    @rule(who=st.sampled_from([A, B]), added=st.sets(numbers), evicted=st.sets(numbers), lost=st.booleans())
    def change(self, who: Peer, added: set[int], evicted: set[int], lost: bool) -> None:
        if who in self.cache:
            evicted = (evicted & self.cache[who]) - added
            self.cache[who] = (self.cache[who] | added) - evicted
            self.tell(who, added, evicted, lost=lost)

    @rule(who=st.sampled_from([A, B]), numbers=st.lists(numbers, unique=True))
    def foresee(self, who: Peer, numbers: list[int]) -> None:
        self.index.foresee(self.now, who, [label(n) for n in numbers])
        if who in self.truth:
            for number in numbers:
                if self.truth[who].get(number) != math.inf:
                    self.truth[who][number] = self.now + FORESEEN_S

    @rule(seconds=st.sampled_from([0.0, 1.0, FORESEEN_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.index.expire(self.now)

    @invariant()
    def it_knows_what_was_told(self) -> None:
        for who, held in self.truth.items():
            live = {number for number, until in held.items() if until > self.now}
            assert set(self.index._nodes[who].pages) == {label(number) for number in live}
        assert len(self.index) == sum(len(known.pages) for known in self.index._nodes.values())

    @invariant()
    def a_match_is_the_longest_run(self) -> None:
        for numbers in ([0, 1, 2, 3, 4, 5], [5, 3, 1], [2]):
            want = {}
            for who, held in self.truth.items():
                live = [number for number, until in held.items() if until > self.now]
                run = next((i for i, number in enumerate(numbers) if number not in live), len(numbers))
                want |= {who: run * SIZE} if run else {}
            assert self.index.match(prompt(*numbers)) == want

    def teardown(self) -> None:
        for who in (A, B):
            self.index.forget(who)
        assert (len(self.index), self.index._holders) == (0, {})


IndexMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestIndexMachine = IndexMachine.TestCase
