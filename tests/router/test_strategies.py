from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from placement_world import MEASURED, fleet, node, peer, report

from router.cost import Costs, Prompt
from router.fleet import Fleet
from router.ledger import Ledger
from router.strategies import STRATEGIES, Couple, Scene, by_cost, cost_of, in_turn

FOUR = ("prefill-0", "prefill-1", "decode-0", "decode-1")


def scene(here: Fleet, request: str = "r", *, ledger: Ledger | None = None, **held: int) -> Scene:
    known = {peer(name.replace("_", "-")): count for name, count in held.items()}
    return Scene(Costs.of(0.0, ledger or Ledger(), here.nodes.values()), Prompt(1000, 1000, known), request)


def couples(here: Fleet) -> list[Couple]:
    return [Couple(node(here, f"prefill-{p}"), node(here, f"decode-{d}")) for d in (0, 1) for p in (0, 1)]


def test_each_pair_comes_in_its_turn() -> None:
    here, ledger = fleet(*FOUR), Ledger()
    seen = Counter[tuple[str, str]]()
    for number in range(8):
        chosen = in_turn(scene(here, ledger=ledger), couples(here))
        ledger.opened(0.0, str(number), 0, chosen.link, prompt=1, unread=1, reserve=1)
        seen[chosen.names] += 1
    assert set(seen.values()) == {2}
    assert len(seen) == 4


def test_a_beginning_that_is_held_is_worth_a_queue_that_is_shorter() -> None:
    here = fleet(*FOUR)
    for name in FOUR:
        report(here, name, MEASURED)
    report(here, "prefill-1", MEASURED, queued_tokens=300)
    chosen = by_cost(scene(here, prefill_1=800), couples(here))
    assert chosen.prefill is node(here, "prefill-1")


def test_and_not_one_that_is_longer() -> None:
    here = fleet(*FOUR)
    report(here, "prefill-1", MEASURED, queued_tokens=2000)
    chosen = by_cost(scene(here, prefill_1=800), couples(here))
    assert chosen.prefill is node(here, "prefill-0")


def test_where_many_wait_work_that_is_saved_counts_for_more() -> None:
    here = fleet(*FOUR)
    report(here, "prefill-0", MEASURED, queued_tokens=8000, waiting=8)
    report(here, "prefill-1", MEASURED, queued_tokens=10_000, waiting=8)
    chosen = by_cost(scene(here, prefill_1=800), couples(here))
    assert chosen.prefill is node(here, "prefill-1")


def test_what_was_just_sent_there_counts() -> None:
    here, ledger = fleet(*FOUR), Ledger()
    first = by_cost(scene(here, ledger=ledger), couples(here))
    ledger.opened(0.0, "r", 0, first.link, prompt=1000, unread=1000, reserve=1000)
    second = by_cost(scene(here, "s", ledger=ledger), couples(here))
    assert {first.prefill.peer, first.decode.peer}.isdisjoint(second.link)


def test_equals_are_drawn_by_the_request_and_the_same_each_time() -> None:
    here = fleet(*FOUR)
    drawn = [by_cost(scene(here, str(number)), couples(here)).names for number in range(200)]
    assert drawn == [by_cost(scene(here, str(number)), couples(here)).names for number in range(200)]
    assert min(Counter(drawn).values()) > 20
    assert len(set(drawn)) == 4


loads = st.lists(st.integers(0, 3000), min_size=2, max_size=2)


@given(loads, loads, st.text(max_size=4))
def test_what_is_chosen_is_about_the_cheapest(queued: list[int], held: list[int], request: str) -> None:
    here = fleet(*FOUR, pages=1000)
    for number, tokens in enumerate(queued):
        report(here, f"prefill-{number}", MEASURED, queued_tokens=tokens)
    asked = scene(here, request, prefill_0=held[0], prefill_1=held[1])
    chosen = cost_of(asked, by_cost(asked, couples(here)))
    assert chosen <= 1.05 * min(cost_of(asked, couple) for couple in couples(here)) + 2.0


@given(st.sampled_from(sorted(STRATEGIES)), st.permutations(range(4)), st.text(max_size=4))
def test_the_order_in_which_nodes_came_does_not_matter(name: str, order: list[int], request: str) -> None:
    here = fleet(*FOUR)
    among = couples(here)
    asked = scene(here, request)
    assert STRATEGIES[name](asked, among) == STRATEGIES[name](asked, [among[i] for i in order])
