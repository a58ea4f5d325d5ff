from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_world import MEASURED, PAGE, PAGES, fleet, node, peer, report

from pagewire.rates import Rates
from router.cost import FULL_MS, UNMEASURED, Costs, Prompt
from router.fleet import Fleet
from router.ledger import Ledger


def costs(here: Fleet, ledger: Ledger | None = None, now: float = 0.0) -> Costs:
    return Costs.of(now, ledger or Ledger(), here.nodes.values())


def prompt(tokens: int = 100, reserve: int = 200, **held: int) -> Prompt:
    """``held`` by names whose dash is a low one."""
    return Prompt(tokens, reserve, {peer(name.replace("_", "-")): count for name, count in held.items()})


def test_what_was_not_measured_is_what_the_others_of_its_role_measured() -> None:
    here = fleet("prefill-0", "prefill-1", "prefill-2", "decode-0")
    report(here, "prefill-0", {"read_token_ms": 2.0})
    report(here, "prefill-1", {"read_token_ms": 4.0})
    rates = costs(here).rates
    assert rates[peer("prefill-0")].read_token_ms == 2.0
    assert rates[peer("prefill-2")].read_token_ms == 3.0
    assert rates[peer("decode-0")].read_token_ms == 3.0 * UNMEASURED
    assert rates[peer("prefill-0")].handoff_ms == Rates().handoff_ms


def test_reading_is_a_step_its_tokens_and_what_they_look_back_on() -> None:
    here = fleet("prefill-0", "decode-0")
    report(here, "prefill-0", MEASURED)
    found = costs(here).reading_ms(prompt(100, prefill_0=64), node(here, "prefill-0"))
    assert found == pytest.approx(5.0 + 36 * 1.0 + 0.1 * 36 * (64 + 18) / 1000)


def test_the_last_token_is_always_read() -> None:
    here = fleet("prefill-0", "decode-0")
    assert prompt(64, prefill_0=64).new(node(here, "prefill-0")) == PAGE
    assert prompt(1).new(node(here, "prefill-0")) == 1


def test_a_queue_is_our_own_and_what_others_sent() -> None:
    here, ledger = fleet("prefill-0", "decode-0"), Ledger()
    link = peer("prefill-0"), peer("decode-0")
    report(here, "prefill-0", MEASURED, queued_tokens=500)
    ledger.opened(0.0, "r", 0, link, prompt=400, unread=100, reserve=500)
    assert costs(here, ledger).queue_ms(node(here, "prefill-0")) == pytest.approx(100 + (500 - 400))


def test_a_prompt_that_is_half_read_is_half_a_queue_once_that_is_reported() -> None:
    here, ledger = fleet("prefill-0", "decode-0"), Ledger()
    link = peer("prefill-0"), peer("decode-0")
    report(here, "prefill-0", MEASURED, queued_tokens=40)
    ledger.opened(0.0, "r", 0, link, prompt=100, unread=100, reserve=500)
    queue = [costs(here, ledger, now).queue_ms(node(here, "prefill-0")) for now in (1.0, 5.0)]
    assert queue == pytest.approx([100.0, 40.0])


def test_only_what_the_decode_node_lacks_is_sent_and_reading_hides_most_of_it() -> None:
    here = fleet("prefill-0", "decode-0")
    held = prompt(1024, decode_0=512)
    report(here, "prefill-0", {"handoff_ms": 3.0, "handoff_mb_ms": 1000.0})
    by, to, here_costs = node(here, "prefill-0"), node(here, "decode-0"), costs(here)
    all_of_it = here_costs.sending_ms(by, to, 1024, 0.0)
    assert all_of_it == pytest.approx(3.0 + 1024 * 128 / 1e6 * 1000)
    assert here_costs.sending_ms(by, to, 1024, 1e6) < all_of_it / 2
    without, half = (here_costs.through(asked, by, node(here, "decode-0")) for asked in (prompt(1024), held))
    assert half < without


def test_company_costs_at_the_decode_node() -> None:
    here = fleet("decode-0", "decode-1")
    report(here, "decode-0", running=3)
    alone, full = costs(here).writing_ms(prompt(), node(here, "decode-1")), costs(here)
    assert alone == 0.0
    assert full.writing_ms(prompt(), node(here, "decode-0")) > 0.0


def test_where_there_is_no_room_it_is_waited_for() -> None:
    here = fleet("decode-0")
    report(here, "decode-0", pages_free=1)
    assert costs(here).room_ms(prompt(reserve=PAGE), node(here, "decode-0")) == 0.0
    waited = costs(here).room_ms(prompt(reserve=PAGE + PAGE * PAGES // 2), node(here, "decode-0"))
    assert waited == pytest.approx(FULL_MS / 2)


def test_reading_where_others_write_costs_them_as_much_each() -> None:
    here = fleet("decode-0")
    report(here, "decode-0", MEASURED | {"write_row_ms": 0.0}, running=4)
    reading = costs(here).reading_ms(prompt(), node(here, "decode-0"))
    assert costs(here).alone(prompt(), node(here, "decode-0")) == pytest.approx(reading * 5)


counts = st.integers(0, 2000)


@given(counts, counts, counts, st.integers(1, 4000))
def test_more_to_do_never_costs_less(queued: int, held: int, more: int, tokens: int) -> None:
    here = fleet("prefill-0", "prefill-1", "decode-0", pages=4096)
    report(here, "prefill-0", queued_tokens=queued)
    report(here, "prefill-1", queued_tokens=queued + more)
    where = node(here, "decode-0")
    asked = prompt(tokens, prefill_0=held + more, prefill_1=held)
    less, rest = (costs(here).through(asked, node(here, name), where) for name in ("prefill-0", "prefill-1"))
    assert 0.0 <= less <= rest
