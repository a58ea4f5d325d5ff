"""The fleet in virtual time that docs/thousand.md is from."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import plain_svg
import thousand
import thousand_lines
from thousand_costs import Yard, costs_of
from thousand_nodes import PAGE, PAGES, Job, VirtualNode
from thousand_traffic import CHAT, budget
from thousand_world import World, jobs_of
from traces import Row

from pagewire.messages import PREFILL, RequestId
from router.ledger import Ledger

ROWS = [Row(3.0 * (n // 4), 1500, 20, (0, n % 5, 10 + n)) for n in range(40)]


def job(*blocks: int) -> Job:
    tokens = [block for block in blocks for _ in range(PAGE)]
    return Job(RequestId("r"), 0.0, tokens, 1, 0, labels=[b"%d" % block for block in blocks])


def test_a_node_finds_what_it_has_read_and_forgets_the_oldest() -> None:
    node = VirtualNode("prefill-0", PREFILL)
    first, second = job(1, 2, 3), job(1, 2, 4)
    cold = node.read_s(first)
    assert node.holds(first.labels) == ([b"1", b"2", b"3"], [])
    assert node.read_s(second) < cold
    assert second.hit == 2 * PAGE
    assert node.holds(b"x%d" % n for n in range(PAGES))[1] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("routers", [1, 3])
def test_each_request_is_answered_and_no_book_keeps_it(routers: int) -> None:
    world = World(3, 2, routers)
    jobs = jobs_of(ROWS, 4.0, 2, thousand.route("random", routers))
    world.play(jobs)
    assert {each.request for each in world.done} == {each.request for each in jobs}
    assert all(each.first > each.came for each in jobs)
    for router in world.all:
        assert router.placing.ledger == Ledger()
        assert len(router.backlog) == 0
        assert router.pairs == {} == router.jobs
    assert any(each.hit > PAGE for each in jobs)


def test_a_conversation_has_one_router() -> None:
    route = thousand.route("conversation", 8)
    assert len({route(row, 0) for row in ROWS}) > 1
    for row in ROWS:
        later = replace(row, hash_ids=(*row.hash_ids, 99))
        assert route(row, 0) == route(later, 0)


def test_copies_share_the_block_that_all_begin_with_and_nothing_else() -> None:
    jobs = jobs_of(ROWS[:1], 4.0, 3, thousand.route("random", 1))
    assert {each.tokens[0] for each in jobs} == {0}
    assert len({each.tokens[-1] for each in jobs}) == 3


def test_routers_are_as_many_as_the_rest_of_their_cores_asks_for() -> None:
    yard = Yard(8)
    assert yard.choose(1).pair.prefill in {node.peer for node in yard.fleet.of(PREFILL)}
    costs = replace(costs_of(8), nodes=1000, label=0.0)
    few = budget(costs, CHAT)
    assert few.routers is not None
    assert few.routers * (0.7 - few.fixed) >= few.tokens + few.requests
    assert budget(replace(costs, label=1.0), CHAT).routers is None


def test_processes_do_not_all_come_back_at_once() -> None:
    found = thousand_lines.return_of_redis(200)
    assert found["most in 10 ms"] < 10
    assert found["all after s"] < 5.1


def test_a_chart_has_a_line_for_each_series() -> None:
    drawn = plain_svg.lines("a < b", "x", ["1", "2"], {"one": [1.0, 2.0], "two": [0.5, 0.1]})
    assert drawn.count("<polyline") == 2
    assert "a &lt; b" in drawn
