from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.messages import RequestId
from router.backlog import Backlog
from router.drain import Drain
from router.room import ANSWER, Capacity, Room, Size

CAPACITY = Capacity(
    prompts=1000, longest=250, tokens=100_000, sequences=4, nominal=4000
)  # a quarter of a second's
SHORT = Size(prompt=100, choices=1, answer=10)


def joined(*sizes: Size, tenant: str = "") -> Backlog:
    backlog = Backlog()
    for number, size in enumerate(sizes):
        backlog.join(0.0, RequestId(str(number)), tenant, size)
    return backlog


def sent(backlog: Backlog, now: float = 0.0, capacity: Capacity | None = CAPACITY) -> list[str]:
    found = []
    while (request := backlog.next(now, capacity)) is not None:
        found.append(request)
    return found


def test_no_more_prompts_are_sent_out_than_the_nodes_have_use_for() -> None:
    backlog = joined(*[SHORT] * 12)
    assert len(sent(backlog)) == 10
    backlog.read(0.0, RequestId("3"))
    assert sent(backlog) == ["10"]


def test_a_long_prompt_leaves_room_for_short_ones() -> None:
    backlog = joined(Size(50_000, 1, 10), *[SHORT] * 3)
    assert len(sent(backlog)) == 4


def test_what_is_read_waits_for_a_place_on_the_decode_nodes() -> None:
    backlog = joined(*[SHORT] * 12)
    for request in sent(backlog):
        backlog.read(0.0, RequestId(request))
    assert sent(backlog) == []
    for number in range(7):
        backlog.leave(1.0, RequestId(str(number)))
    assert len(sent(backlog, 1.0)) == 2


def test_room_is_kept_for_an_answer_up_to_some_length() -> None:
    assert Size(prompt=10, choices=2, answer=5).tokens == 20
    assert Size(prompt=10, choices=2, answer=100_000).tokens == 10 + 2 * ANSWER


def test_one_that_is_larger_than_all_there_is_goes_when_nothing_else_runs() -> None:
    backlog = joined(SHORT, Size(200_000, 1, 10))
    assert sent(backlog) == ["0"]
    backlog.leave(1.0, RequestId("0"))
    assert sent(backlog, 1.0) == ["1"]


def test_without_decode_nodes_everybody_goes_and_waits_there() -> None:
    assert len(sent(joined(*[SHORT] * 30), capacity=None)) == 30


def test_one_that_ends_while_it_waits_is_not_sent() -> None:
    backlog = joined(SHORT, SHORT)
    backlog.leave(0.0, RequestId("0"))
    assert sent(backlog) == ["1"]


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["join", "read", "leave"])), max_size=80))
def test_nothing_is_held_once_all_is_over(acts: list[tuple[int, str]]) -> None:
    backlog, known = Backlog(), dict[str, bool]()
    for number, (which, act) in enumerate(acts):
        name = str(which)
        if act == "join" and name not in known:
            known[name] = False
            backlog.join(float(number), RequestId(name), "ab"[which % 2], Size(60 * which + 1, 1, 5))
        elif act == "read" and known.get(name):
            backlog.read(float(number), RequestId(name))
        elif act == "leave" and name in known:
            backlog.leave(float(number), RequestId(name))
            del known[name]
        for request in sent(backlog, float(number)):
            known[request] = True
    for name in known:
        backlog.leave(100.0, RequestId(name))
    assert len(backlog) == 0
    assert vars(backlog._room) == vars(Room())
    assert not backlog._waiting
    assert not backlog._sent


def test_before_anything_was_seen_a_rate_is_supposed() -> None:
    assert joined(Size(3_900, 1, 100)).wait("", 1, {}, CAPACITY) == pytest.approx(1.0)


def test_of_another_tenant_no_more_counts_than_of_ones_own() -> None:
    backlog = joined(Size(50_000, 1, 0), tenant="greedy")
    backlog.join(0.0, RequestId("r"), "modest", Size(1000, 1, 0))
    assert backlog.wait("modest", 1000, {}, CAPACITY) == pytest.approx((1000 + 2000) / 4000)
    assert backlog.wait("new", 1000, {}, CAPACITY) == 0.0


def test_the_wait_grows_with_what_is_about_to_join() -> None:
    assert Backlog().wait("", 1, {"": 2_000}, CAPACITY) == pytest.approx(0.5)


def test_a_rate_is_learned_from_how_fast_those_that_wait_go() -> None:
    drain = Drain()
    for _ in range(200):
        drain.passed(0.1)
        drain.took(50 / 2_000)
    assert drain.rate(2_000.0) == pytest.approx(500, rel=0.05)


def test_a_rate_stands_when_nodes_come() -> None:
    drain = Drain()
    for _ in range(200):
        drain.passed(0.1)
        drain.took(50 / 2_000)
    assert drain.rate(4_000.0) == pytest.approx(1000, rel=0.05)


def test_nodes_that_do_nothing_are_still_nodes() -> None:
    drain = Drain()
    drain.passed(1000.0)
    assert drain.rate(2_000.0) == pytest.approx(40)


def served(backlog: Backlog, seconds: float) -> None:
    """One request after the other, each of them in so many seconds."""
    for number in range(20):
        request = backlog.next(number * seconds, CAPACITY)
        assert request is not None
        backlog.read((number + 1) * seconds, request)
        backlog.leave((number + 1) * seconds, request)


def test_slow_nodes_are_given_less_ahead() -> None:
    backlog = joined(*[SHORT] * 40)
    served(backlog, 1.0)
    assert backlog.reading.rate(CAPACITY.nominal) == pytest.approx(100, rel=0.2)
    assert len(sent(backlog, 20.0)) == 1


def test_how_long_nodes_take_is_remembered() -> None:
    quick, slow = joined(*[SHORT] * 40), joined(*[SHORT] * 40)
    served(quick, 0.1)
    served(slow, 0.5)
    assert 0 < quick.node_s(SHORT.prompt) < slow.node_s(SHORT.prompt) / 2 < 0.25


def test_a_longer_prompt_goes_earlier_by_the_time_that_it_takes_but_not_by_more_than_half_a_second() -> None:
    backlog = joined(*[SHORT] * 20)
    served(backlog, 0.5)
    backlog.join(20.0, RequestId("short"), "", SHORT)
    backlog.join(20.1, RequestId("long"), "", Size(200, 1, 10))
    backlog.join(20.6, RequestId("longest"), "", Size(100_000, 1, 10))
    assert backlog.next(21.0, CAPACITY) == "long"
    assert backlog.next(21.0, None) == "short"
    assert backlog.node_s(100_000) > 100


def test_what_goes_at_once_tells_nothing_of_the_rate() -> None:
    backlog = joined(SHORT)
    before = backlog.drain.rate(1.0)
    sent(backlog)
    assert backlog.drain.rate(1.0) == before


def test_what_others_send_meanwhile_is_seen_by_how_fast_ones_own_go() -> None:
    """A third of all that goes is another's, though it never has much waiting at once."""
    backlog, now = joined(*[SHORT] * 400, tenant="many"), 0.0
    backlog.join(0.0, RequestId("x"), "few", SHORT)
    for number in range(60):
        now += 0.1
        backlog.join(now - 0.05, RequestId(f"few{number}"), "few", SHORT)
        while (request := backlog.next(now, CAPACITY)) is not None:
            backlog.read(now + 0.05, request)
            backlog.leave(now + 0.05, request)
            if request.startswith("few"):
                break
        now += 0.1
    mine = backlog.queue.tokens()["many"]
    assert backlog.wait("many", 1, {}, CAPACITY) > 1.2 * mine / backlog.drain.rate(CAPACITY.nominal)


def test_our_own_sleep_is_not_held_against_the_nodes() -> None:
    backlog = joined(*[SHORT] * 20)
    sent(backlog)
    before = backlog.wait("", 100, {}, CAPACITY)
    sent(backlog, 60.0)
    assert backlog.wait("", 100, {}, CAPACITY) == before
    for tenth in range(601, 701):  # awake, and nothing goes
        sent(backlog, tenth / 10)
    assert backlog.wait("", 100, {}, CAPACITY) > 2 * before
