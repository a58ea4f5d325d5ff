from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.messages import RequestId
from router.admission import RETRY_S, Admission, Limits, Overloaded, OverShare, Ticket
from router.backlog import Backlog
from router.room import Capacity, Size

CAPACITY = Capacity(prompts=1000, longest=250, tokens=100_000, sequences=8, nominal=2000)


def admission(**limits: float) -> Admission:
    return Admission(Limits(**limits), Backlog())  # type: ignore[arg-type]


def admit(door: Admission, tenant: str = "", size: int = 0) -> Ticket:
    return door.admit(tenant, size, CAPACITY)


def waiting(tenant: str, tokens: int, **limits: float) -> Admission:
    """A door behind which so many tokens of ``tenant`` wait."""
    backlog = Backlog()
    backlog.join(0.0, RequestId("r"), tenant, Size(tokens, 1, 0))
    return Admission(Limits(**limits), backlog)  # type: ignore[arg-type]


def test_a_burst_is_counted_before_any_of_it_is_read() -> None:
    door = admission(inflight=3)
    for _ in range(3):
        admit(door)
    with pytest.raises(Overloaded) as refused:
        admit(door)
    assert refused.value.status == 429


def test_a_place_is_free_again_when_the_block_is_left() -> None:
    door = admission(inflight=1)
    for _ in range(2):
        with admit(door):
            assert door.inflight == 1
    assert door.inflight == 0


def test_a_ticket_that_is_kept_gives_its_places_back_one_by_one() -> None:
    door = admission()
    with admit(door) as ticket:
        ticket.widen(3)
        ticket.keep()
    assert door.inflight == 3
    for left in (2, 1, 0):
        ticket.leave()
        assert door.inflight == left


def test_more_prompts_than_there_is_room_for_get_no_place_at_all() -> None:
    door = admission(inflight=3)
    with pytest.raises(Overloaded), admit(door) as ticket:
        ticket.widen(4)
    assert door.inflight == 0


def test_a_tenant_has_a_limit_of_its_own_and_leaves_room_for_others() -> None:
    door = admission(inflight=10, of_tenant=2)
    for _ in range(2):
        admit(door, "greedy")
    with pytest.raises(OverShare):
        admit(door, "greedy")
    assert admit(door, "other").places == 1


def test_without_keys_there_is_one_tenant_and_it_has_all() -> None:
    door = admission(inflight=10, of_tenant=2)
    for _ in range(10):
        admit(door)
    assert door.inflight == 10


def test_a_queue_that_is_full() -> None:
    door = waiting("", 1, queued=1)
    with pytest.raises(Overloaded):
        admit(door)


def test_an_answer_that_would_begin_too_late_is_refused() -> None:
    """A third of the target is left for what nobody foresees."""
    with pytest.raises(Overloaded):
        admit(waiting("", 2_700, ttft_s=2.0))
    assert admit(waiting("", 2_500, ttft_s=2.0)).places == 1


def test_what_took_longer_than_foreseen_makes_it_careful() -> None:
    door = waiting("", 2_000, ttft_s=2.0)  # a second
    for _ in range(50):
        door.foresight[""].saw(1.0, 1.9)
    with pytest.raises(Overloaded):
        admit(door)
    for _ in range(100):
        door.foresight[""].saw(1.0, 1.0)
    assert admit(door).places == 1


def test_the_first_of_a_tickets_first_tokens_teaches() -> None:
    door = admission(ttft_s=2.0)
    ticket = admit(door)
    ticket.began(5.0)
    once = door.foresight[""].error
    ticket.began(5.0)
    assert door.foresight[""].error == once > 0


def test_bodies_that_are_yet_to_be_read_count_too() -> None:
    door = admission(ttft_s=2.0)
    admit(door, size=20_000)
    with pytest.raises(Overloaded):
        admit(door)


def test_a_long_prompt_is_taken_where_nobody_waits() -> None:
    assert admit(admission(ttft_s=2.0), size=4 << 20).places == 1


def test_one_tenants_backlog_is_not_anothers() -> None:
    door = waiting("greedy", 100_000, ttft_s=2.0)
    assert admit(door, "other").places == 1
    with pytest.raises(Overloaded):
        admit(door, "greedy")


@pytest.mark.parametrize("tokens", [5_000, 1 << 30])
def test_who_is_refused_hears_when_to_come_back(tokens: int) -> None:
    with pytest.raises(Overloaded) as refused:
        admit(waiting("", tokens, ttft_s=2.0))
    assert RETRY_S[0] <= refused.value.retry_after <= RETRY_S[1]


acts = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.booleans()), max_size=40)


@given(acts)
def test_every_place_comes_back_once(acts: list[tuple[str, int, bool]]) -> None:
    door, kept = admission(inflight=12, of_tenant=8), list[Ticket]()
    for tenant, places, keep in acts:
        try:
            with admit(door, tenant, size=100) as ticket:
                ticket.widen(places)
                if keep:
                    ticket.keep()
                    kept.append(ticket)
        except (Overloaded, OverShare):
            continue
        assert door.inflight == sum(ticket.places for ticket in kept) <= 12
    for ticket in kept:
        for _ in range(ticket.places):
            ticket.leave()
    assert door.inflight == 0
