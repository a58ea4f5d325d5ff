"""When the decode node reads a prompt by itself though prefill nodes are there."""

from __future__ import annotations

from placement_world import MEASURED, fleet, peer, report

from router.fleet import Fleet
from router.ledger import Ledger
from router.placement import Pair, Query, Rules, Tried, View, choose
from router.reach import Reach

PAIR = ("prefill-0", "decode-0")


def chosen(here: Fleet, rules: Rules, tokens: int = 500, tried: Tried = frozenset(), **held: int) -> Pair:
    known = {peer(name.replace("_", "-")): count for name, count in held.items()}
    query = Query(range(tokens), tokens + 20)
    pair = choose(View(0.0, here, Ledger(), Reach(), known), query, tried, rules)
    assert pair is not None
    return pair


def measured(**counts: int) -> Fleet:
    here = fleet(*PAIR)
    report(here, "prefill-0", MEASURED, **counts)
    report(here, "decode-0", MEASURED)
    return here


def alone(pair: Pair) -> bool:
    return pair.prefill == pair.decode


AUTO, ALWAYS, NEVER = (Rules(disaggregate=word) for word in ("auto", "always", "never"))


def test_prompts_go_to_an_idle_prefill_node() -> None:
    for tokens in (20, 100, 500):
        assert not alone(chosen(measured(), AUTO, tokens))


def test_what_the_decode_node_holds_it_had_better_read() -> None:
    pair = chosen(measured(), AUTO, decode_0=480)
    assert alone(pair)
    assert str(pair.why) == "alone:480/500"


def test_but_not_what_the_prefill_node_holds_as_well() -> None:
    assert not alone(chosen(measured(), AUTO, decode_0=480, prefill_0=480))


def test_a_busy_prefill_node_is_gone_round() -> None:
    assert alone(chosen(measured(queued_tokens=5000), AUTO))


def test_streams_that_would_wait_keep_the_prompt_away() -> None:
    here = measured()
    report(here, "decode-0", MEASURED, running=30)
    assert not alone(chosen(here, AUTO, decode_0=400))


def test_nothing_is_risked_before_it_was_measured() -> None:
    here = fleet(*PAIR)
    report(here, "prefill-0", queued_tokens=5000)
    assert not alone(chosen(here, AUTO))


def test_always_and_never_are_what_they_say() -> None:
    assert not alone(chosen(measured(queued_tokens=5000), ALWAYS, decode_0=480))
    assert alone(chosen(measured(), NEVER))
    assert alone(chosen(fleet("decode-0"), NEVER))


def test_a_request_that_failed_somewhere_is_no_matter_of_price() -> None:
    assert not alone(chosen(measured(queued_tokens=5000), AUTO, tried=frozenset([peer("prefill-0")])))


def test_a_silent_decode_node_is_not_asked_to_read() -> None:
    here = measured(queued_tokens=5000)
    here.heard(2.0, peer("prefill-0"))
    here.sweep(2.0)
    assert not alone(chosen(here, AUTO))
