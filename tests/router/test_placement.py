from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_world import fleet, peer, report

from router.fleet import Fleet
from router.ledger import Ledger
from router.placement import Pair, Query, Rules, Tried, View, Why, choose
from router.reach import FIRST_S, Link, Reach

NO_TRIES: Tried = frozenset()


def chosen(
    here: Fleet,
    ledger: Ledger | None = None,
    tried: Tried = NO_TRIES,
    reach: Reach | None = None,
    now: float = 0.0,
    *,
    alone: bool = False,
) -> Pair | None:
    """By load: then names say who comes first."""
    query, view = Query([1, 2, 3], 20, alone=alone), View(now, here, ledger or Ledger(), reach or Reach())
    pair = choose(view, query, tried, Rules("load"))
    return None if pair is None else pair._replace(why=Why())


def link(prefill: int, decode: int) -> Link:
    return peer(f"prefill-{prefill}"), peer(f"decode-{decode}")


def cut(*links: Link) -> Reach:
    """The first failed first."""
    reach = Reach()
    for number, one in enumerate(links):
        reach.failed(number / 10, one, ("r", 0))
    return reach


def test_half_a_pair_is_none() -> None:
    assert chosen(fleet("prefill-0")) is None
    assert chosen(fleet("decode-0")) is None


def test_a_pair_has_the_decode_address() -> None:
    assert chosen(fleet("prefill-0", "decode-0")) == Pair(
        peer("prefill-0"), peer("decode-0"), "shm://decode-0"
    )


DECODE_ONLY = Pair(peer("decode-0"), peer("decode-0"), "shm://decode-0")


def test_a_decode_node_alone_is_the_last_resort() -> None:
    assert chosen(fleet("decode-0"), alone=True) == DECODE_ONLY
    pair = chosen(fleet("prefill-0", "decode-0"), alone=True)
    assert pair == Pair(peer("prefill-0"), peer("decode-0"), "shm://decode-0")


def test_a_prefill_node_that_was_tried_is_no_better_than_none() -> None:
    here, tried = fleet("prefill-0", "decode-0"), frozenset({peer("prefill-0"), peer("decode-0")})
    assert chosen(here, tried=tried, alone=True) == DECODE_ONLY
    assert chosen(here, tried=tried) != DECODE_ONLY


def test_the_shorter_queue_prefills() -> None:
    here = fleet("prefill-0", "prefill-1", "decode-0")
    report(here, "prefill-0", queued_tokens=500, pages_free=64)
    assert chosen(here).prefill == peer("prefill-1")  # type: ignore[union-attr]


def test_the_emptier_pool_decodes() -> None:
    here = fleet("prefill-0", "decode-0", "decode-1")
    report(here, "decode-0", pages_free=10)
    report(here, "decode-1", pages_free=20)
    assert chosen(here).decode == peer("decode-1")  # type: ignore[union-attr]


def test_what_was_just_sent_counts_before_the_node_reports_it() -> None:
    here, ledger = fleet("prefill-0", "prefill-1", "decode-0", "decode-1"), Ledger()
    first = chosen(here, ledger)
    assert first is not None
    ledger.opened(0.0, "r", 0, first[:2], prompt=50, unread=50, reserve=80)
    second = chosen(here, ledger)
    assert second is not None
    assert {first.prefill, first.decode}.isdisjoint(second[:2])


def test_tried_nodes_are_the_last_resort() -> None:
    here = fleet("prefill-0", "prefill-1", "decode-0")
    pair = chosen(here, tried=frozenset([peer("prefill-0"), peer("decode-0")]))
    assert pair is not None
    assert (pair.prefill, pair.decode) == (peer("prefill-1"), peer("decode-0"))


def test_silent_nodes_are_avoided() -> None:
    here = fleet("prefill-0", "prefill-1", "decode-0")
    here.heard(2.0, peer("prefill-1"))
    here.sweep(2.0)
    assert chosen(here).prefill == peer("prefill-1")  # type: ignore[union-attr]


FOUR = ("prefill-0", "prefill-1", "decode-0", "decode-1")
EVERY = [link(p, d) for d in (0, 1) for p in (0, 1)]


def test_a_cut_pair_is_avoided_for_the_decode_node_that_has_most_room() -> None:
    assert chosen(fleet(*FOUR), reach=cut(link(0, 0)))[:2] == link(1, 0)  # type: ignore[index]
    assert chosen(fleet(*FOUR), reach=cut(link(0, 0), link(1, 0)))[:2] == link(0, 1)  # type: ignore[index]


def test_a_cut_pair_of_this_request_alone_is_avoided() -> None:
    assert chosen(fleet(*FOUR), tried=frozenset([link(0, 0)]))[:2] == link(1, 0)  # type: ignore[index]


def test_no_silent_node_is_taken_for_the_sake_of_a_free_one() -> None:
    here = fleet(*FOUR)
    for name in ("prefill-0", "decode-0", "decode-1"):
        here.heard(2.0, peer(name))
    here.sweep(2.0)
    assert chosen(here, reach=cut(link(0, 0)))[:2] == link(0, 1)  # type: ignore[index]


def test_when_its_time_is_up_a_cut_pair_is_as_good_as_any_until_one_asks() -> None:
    reach = cut(link(0, 0))
    assert chosen(fleet(*FOUR), reach=reach, now=FIRST_S)[:2] == link(0, 0)  # type: ignore[index]
    reach.opened(link(0, 0), ("a", 0))
    assert chosen(fleet(*FOUR), reach=reach, now=FIRST_S)[:2] == link(1, 0)  # type: ignore[index]


def test_where_all_are_cut_the_longest_ago_is_asked() -> None:
    reach = cut(link(1, 0), *[one for one in EVERY if one != link(1, 0)])
    assert chosen(fleet(*FOUR), reach=reach, now=1.0)[:2] == link(1, 0)  # type: ignore[index]
    tried = frozenset([link(1, 0)])
    assert chosen(fleet(*FOUR), reach=reach, now=1.0, tried=tried)[:2] == EVERY[0]  # type: ignore[index]


def test_where_all_are_cut_decode_does_all_of_it_if_it_may() -> None:
    assert chosen(fleet(*FOUR), reach=cut(*EVERY), now=1.0, alone=True) == DECODE_ONLY


def test_where_all_are_cut_and_one_for_sure_decode_does_all_of_it_at_once() -> None:
    reach = cut(*EVERY)
    reach.opened(EVERY[0], ("r", 1))
    reach.failed(0.5, EVERY[0], ("r", 1))
    assert chosen(fleet(*FOUR), reach=reach, now=1.0) == DECODE_ONLY
    reach.reached(EVERY[3])
    assert chosen(fleet(*FOUR), reach=reach, now=1.0)[:2] == EVERY[3]  # type: ignore[index]


loads = st.integers(0, 3)


@given(
    st.lists(loads, min_size=6, max_size=6),
    st.sets(st.sampled_from([(p, d) for p in range(3) for d in range(3)])),
)
@settings(deadline=None)
def test_the_lowest_pair_that_is_not_cut(busy: list[int], cuts: set[tuple[int, int]]) -> None:
    names = [f"{role}-{number}" for role in ("prefill", "decode") for number in range(3)]
    here = fleet(*names)
    for name, count in zip(names, busy, strict=True):
        report(here, name, queued_tokens=count, pages_free=64 - count)
    pair = chosen(here, reach=cut(*(link(*one) for one in sorted(cuts))), now=1.0)
    clear = [(busy[3 + d], d, busy[p], p) for p in range(3) for d in range(3) if (p, d) not in cuts]
    assert pair is not None
    if clear:
        _, d, _, p = min(clear)
        assert pair[:2] == link(p, d)
    else:
        assert pair[:2] == link(0, 0)  # it failed first


def test_of_a_large_fleet_those_that_hold_the_prompt_and_those_that_are_idle_are_looked_at() -> None:
    here = fleet("decode-0", *(f"prefill-{number}" for number in range(40)))
    for number in range(40):
        report(here, f"prefill-{number}", queued_tokens=15 * number)
    idle = {peer(f"prefill-{number}") for number in range(6)}
    for held, wanted in (({peer("prefill-39"): 992}, {peer("prefill-39")}), ({}, idle)):
        view = View(0.0, here, Ledger(), Reach(), held)
        pair = choose(view, Query(range(1000), 1000), NO_TRIES, Rules(disaggregate="always"))
        assert pair is not None
        assert pair.prefill in wanted


def test_where_the_most_promising_are_all_cut_the_others_come_into_question() -> None:
    here = fleet("decode-0", *(f"prefill-{number}" for number in range(10)))
    for number in range(10):
        report(here, f"prefill-{number}", queued_tokens=100 * number)
    pair = chosen(here, reach=cut(*(link(number, 0) for number in range(9))), now=1.0)
    assert pair is not None
    assert pair.prefill == peer("prefill-9")


def test_why_says_what_the_reader_is_believed_to_hold() -> None:
    view = View(0.0, fleet(*FOUR), Ledger(), Reach(), {peer("prefill-1"): 32})
    whys = [choose(view, Query(range(40), 60), NO_TRIES, Rules(name)) for name in ("prefix", "round-robin")]
    assert [str(pair.why) for pair in whys if pair is not None] == ["prefix:32/40", "round-robin"]
