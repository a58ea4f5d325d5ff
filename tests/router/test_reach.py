"""What is remembered of pairs that did not reach each other, and for how long."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.mailbox import Peer
from pagewire.messages import Epoch, NodeId
from router.reach import FIRST_S, LONGEST_S, Attempt, Link, Reach


def peer(name: str, epoch: str = "e") -> Peer:
    return Peer(NodeId(name), Epoch(epoch))


PREFILLS, DECODES = [peer("p0"), peer("p1")], [peer("d0"), peer("d1")]
LINKS: list[Link] = [(p, d) for p in PREFILLS for d in DECODES]
LINK, OTHER = LINKS[0], LINKS[3]
OLD: Attempt = ("old", 0)


def test_a_pair_is_good_until_it_fails() -> None:
    assert not Reach().avoids(0.0, LINK)


def test_a_failed_pair_is_avoided_and_no_other() -> None:
    reach = Reach()
    assert reach.failed(10.0, LINK, OLD)
    assert reach.avoids(10.0 + FIRST_S * 0.99, LINK)
    assert not reach.avoids(10.0 + FIRST_S, LINK)
    assert not any(reach.avoids(10.0, link) for link in LINKS[1:])
    assert len(reach) == 1


def test_one_attempt_at_a_time_asks_again() -> None:
    reach = Reach()
    reach.failed(0.0, LINK, OLD)
    reach.opened(LINK, ("a", 0))
    assert reach.avoids(100.0, LINK)
    reach.closed(LINK, ("a", 0))  # it was cancelled: that says nothing
    assert not reach.avoids(100.0, LINK)
    assert len(reach) == 1


def test_what_was_under_way_when_the_pair_failed_says_nothing_new() -> None:
    reach = Reach()
    reach.failed(0.0, LINK, OLD)
    assert not reach.failed(2.0, LINK, ("also old", 0))
    assert not reach.avoids(FIRST_S, LINK)
    assert not reach.sure(LINK)


def test_the_longer_it_is_cut_the_longer_the_wait() -> None:
    reach, now = Reach(), 0.0
    reach.failed(now, LINK, OLD)
    waits: dict[float, float] = {}
    for number in range(60):
        failed_at = now
        while reach.avoids(now, LINK):
            now += 0.5
        waits[failed_at] = now - failed_at
        reach.opened(LINK, ("r", number))
        now += 2.5
        assert not reach.failed(now, LINK, ("r", number))
        assert reach.sure(LINK)
    for after, wait in waits.items():
        assert wait - 0.5 < min(max(FIRST_S, after / 10), LONGEST_S) <= wait
    assert max(wait for after, wait in waits.items() if after <= 60) + 2.5 < 10
    assert max(waits.values()) == LONGEST_S


def test_a_handoff_that_comes_through_heals_it() -> None:
    reach = Reach()
    reach.failed(0.0, LINK, OLD)
    assert reach.reached(LINK)
    assert not reach.reached(LINK)
    assert reach == Reach()


def test_the_next_life_of_a_node_begins_without_memory() -> None:
    reach = Reach()
    for link in LINKS:
        reach.failed(0.0, link, OLD)
    reach.forget(peer("d0"))
    assert [reach.avoids(0.0, link) for link in LINKS] == [d != peer("d0") for _, d in LINKS]
    assert not reach.avoids(0.0, (peer("p0"), peer("d1", "e2")))


events = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(LINKS), st.integers(0, 7)),
    st.tuples(st.just("fail"), st.sampled_from(LINKS), st.integers(0, 7)),
    st.tuples(st.just("close"), st.sampled_from(LINKS), st.integers(0, 7)),
    st.tuples(st.just("reach"), st.sampled_from(LINKS), st.just(0)),
    st.tuples(st.just("forget"), st.sampled_from(LINKS), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.just(LINK), st.integers(1, 200)),
)


@given(st.lists(events, max_size=80))
@settings(deadline=None, max_examples=300)
def test_whatever_happens(steps: list[tuple[str, Link, int]]) -> None:
    """Against a plain account of what failed last and who asks since."""
    reach, now = Reach(), 0.0
    failed: dict[Link, float] = {}
    asking: dict[Link, set[int]] = {link: set() for link in LINKS}
    for kind, link, number in steps:
        attempt = ("r", number)
        match kind:
            case "ask":
                # Whoever looks first is alone: it asks where nobody else does.
                if not reach.avoids(now, link):
                    assert not asking[link]
                reach.opened(link, attempt)
                if link in failed:
                    asking[link].add(number)
            case "fail":
                assert reach.failed(now, link, attempt) == (link not in failed)
                if link not in failed or number in asking[link]:
                    failed[link] = now
                    asking[link].clear()
            case "close":
                reach.closed(link, attempt)
                asking[link].discard(number)
            case "reach":
                assert reach.reached(link) == (link in failed)
                failed.pop(link, None)
                asking[link].clear()
            case "forget":
                reach.forget(link[number])
                for gone in [other for other in failed if link[number] in other]:
                    del failed[gone]
                    asking[gone].clear()
            case "wait":
                now += number / 2
        assert len(reach) == len(failed)
        for one in LINKS:
            assert reach.failed_at(one) == failed.get(one, float("-inf"))
            since = now - reach.failed_at(one)
            if one not in failed or (since >= LONGEST_S and not asking[one]):
                assert not reach.avoids(now, one)
            elif since < FIRST_S or asking[one]:
                assert reach.avoids(now, one)


@given(st.permutations(LINKS), st.permutations(LINKS))
def test_pairs_do_not_touch_each_other(first: list[Link], then: list[Link]) -> None:
    """The order in which different pairs fail and heal does not matter."""
    one, other = Reach(), Reach()
    for reach, order in ((one, first), (other, then)):
        for link in order:
            reach.failed(1.0, link, OLD)
        for link in reversed(order):
            if link != OTHER:
                reach.reached(link)
    assert one == other
    assert len(one) == 1
