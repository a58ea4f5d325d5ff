"""Handoffs cost what others over that distance took, and near pairs are taken where that is cheaper."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from conftest import World, running
from hypothesis import given
from hypothesis import strategies as st
from placement_world import MEASURED, fleet, node, peer, report

from pagewire.messages import NodeId, RequestId, Spans, Tokens
from pagewire.text.tokenizer import Tokenizer
from pagewire.timeline import RESERVE, TRANSFER_BYTES, TRANSFER_EXPOSED, TRANSFER_HIDDEN
from pagewire.topology import shared
from router.cost import Costs, Prompt
from router.distances import SEEN, Distances, Way
from router.fleet import Fleet
from router.ledger import Ledger
from router.placement import Query, Rules, View, choose
from router.reach import Reach

RACKS = {"prefill-0": "z/a", "decode-0": "z/a", "prefill-1": "z/b", "decode-1": "z/b"}
FAR, NEAR = 1, 2  # parts shared
ALWAYS = Rules("prefix", "always")


def spans(exposed: float, hidden: float = 0.0, megabytes: float = 1.0, reserve: float = 0.0) -> Spans:
    ms = {RESERVE: reserve, TRANSFER_HIDDEN: hidden, TRANSFER_EXPOSED: exposed}
    return Spans(RequestId("r"), 0, NodeId("p"), "prefill", 1, ms, {TRANSFER_BYTES: round(megabytes * 1e6)})


def learnt(**ways: tuple[float, float]) -> Distances:
    """Of far and near, what a handoff takes and a MB."""
    found = Distances()
    for name, (ms, mb_ms) in ways.items():
        for _ in range(SEEN):
            found.heard({"far": FAR, "near": NEAR}[name], spans(ms, 100 * mb_ms - ms, 100.0))
    return found


def test_a_distance_is_known_after_some_handoffs() -> None:
    here = Distances()
    for count in range(SEEN):
        assert FAR not in here.ways
        here.heard(FAR, spans(10.0, 30.0 + count, 2.0, reserve=5.0))
    assert here.ways == {FAR: Way(pytest.approx(15.0), pytest.approx((40.0 + 1.0) / 2.0))}


def test_a_long_wait_for_room_is_not_the_distance() -> None:
    here = Distances()
    for _ in range(SEEN):
        here.heard(NEAR, spans(1.0, reserve=5000.0))
    assert here.ways[NEAR].handoff_ms == pytest.approx(51.0)


@pytest.mark.parametrize(
    ("distance", "told"),
    [
        (None, spans(1.0)),
        (NEAR, spans(1.0, megabytes=0.0)),
        (NEAR, spans(math.inf)),
        (NEAR, spans(-1.0)),
        (NEAR, spans(1.0, hidden=1e7)),
    ],
    ids=["no place", "not over", "endless", "before it began", "hours"],
)
def test_what_says_nothing_of_a_distance_is_left_out(distance: int | None, told: Spans) -> None:
    here = Distances()
    for _ in range(SEEN):
        here.heard(distance, told)
    assert not here.ways


@given(st.lists(st.floats(0, 1e5), min_size=SEEN, max_size=60), st.floats(0.001, 1e3))
def test_a_mean_lies_within_what_was_told(times: list[float], megabytes: float) -> None:
    here = Distances()
    for ms in times:
        here.heard(FAR, spans(ms, megabytes=megabytes))
    assert min(times) - 1e-6 <= here.ways[FAR].handoff_ms <= max(times) + 1e-6


def test_it_forgets_what_was_long_ago() -> None:
    here = learnt(far=(1000.0, 1000.0))
    for _ in range(60):
        here.heard(FAR, spans(1.0))
    assert here.ways[FAR].handoff_ms < 10.0


def cost(here: Fleet, distances: Distances, prefill: str, decode: str) -> float:
    costs = Costs.of(0.0, Ledger(), here.nodes.values(), distances.ways)
    return costs.through(Prompt(1000, 1000, {}), node(here, prefill), node(here, decode))


def test_a_pair_costs_what_its_distance_takes_and_else_what_its_node_measured() -> None:
    here = fleet(*RACKS, at=RACKS)
    for name in RACKS:
        report(here, name, MEASURED | {"handoff_ms": 7.0, "handoff_mb_ms": 0.0})

    def both(known: Distances) -> list[float]:
        return [cost(here, known, "prefill-0", to) for to in ("decode-0", "decode-1")]

    near, far = both(Distances())
    assert near == far
    assert both(learnt(far=(70.0, 0.7))) == [near, pytest.approx(far + 63.0, abs=0.1)]  # bytes are few


def test_without_topologies_all_is_as_it_was() -> None:
    here = fleet(*RACKS)
    assert cost(here, learnt(far=(500.0, 5.0)), "prefill-0", "decode-1") == cost(
        here, Distances(), "prefill-0", "decode-1"
    )


# --- which pair is taken ---


def placed(
    here: Fleet, distances: Distances, ledger: Ledger | None = None, request: str = "r"
) -> tuple[str, str]:
    view = View(0.0, here, ledger or Ledger(), Reach(), {}, distances.ways)
    pair = choose(view, Query(list(range(1000)), 1000, request=request), frozenset(), ALWAYS)
    assert pair is not None
    return pair.prefill.node, pair.decode.node


NEAR_PAIRS = {("prefill-0", "decode-0"), ("prefill-1", "decode-1")}


@given(st.sampled_from([Distances(), learnt(near=(5.0, 1.0)), learnt(far=(5.0, 1.0))]), st.text(max_size=4))
def test_before_it_is_measured_the_nearer_pair_is_taken(distances: Distances, request: str) -> None:
    assert placed(fleet(*RACKS, at=RACKS, pages=1000), distances, request=request) in NEAR_PAIRS


def test_near_pairs_share_the_work() -> None:
    here = fleet(*RACKS, at=RACKS, pages=1000)
    seen = Counter(
        placed(here, learnt(near=(5.0, 1.0), far=(50.0, 10.0)), request=str(n)) for n in range(100)
    )
    assert set(seen) == NEAR_PAIRS
    assert min(seen.values()) > 25


@pytest.mark.parametrize(
    ("running", "far_ms", "decode"),
    [(0, 50.0, "decode-0"), (2, 500.0, "decode-0"), (20, 50.0, "decode-1")],
    ids=["idle", "some load", "more load than the way costs"],
)
def test_a_far_decode_node_is_taken_when_the_near_one_has_more_to_do(
    running: int, far_ms: float, decode: str
) -> None:
    names = ("prefill-0", "decode-0", "decode-1")
    here = fleet(*names, at=RACKS, pages=1000)
    for name in names:
        report(here, name, MEASURED | {"write_row_ms": 1.0})
    report(here, "decode-0", MEASURED | {"write_row_ms": 1.0}, running=running)
    distances = learnt(near=(far_ms / 10, 1.0), far=(far_ms, 10.0))
    assert placed(here, distances) == ("prefill-0", decode)


def test_a_router_learns_that_a_link_is_slow_and_crosses_it_only_when_it_pays() -> None:
    """Two racks, and between them a link that is ten times slower."""
    here, distances = fleet(*RACKS, at=RACKS, pages=100_000), Distances()

    def crossed(queued: int, running: int) -> int:
        """Of 100 requests, while one rack has much to read and the other much to write."""
        for name in RACKS:
            report(here, name, MEASURED)
        report(here, "prefill-1", MEASURED, queued_tokens=queued)
        report(here, "decode-0", MEASURED, running=running)
        count = 0
        for number in range(100):
            prefill, decode = (node(here, name) for name in placed(here, distances, request=str(number)))
            far = shared(prefill.place, decode.place) == FAR
            distances.heard(FAR if far else NEAR, spans(50.0, 450.0) if far else spans(5.0, 45.0))
            count += far
        return count

    assert crossed(queued=0, running=0) == 0
    assert crossed(queued=3000, running=40) == 100
    assert distances.ways == {
        NEAR: Way(*map(pytest.approx, (5.0, 50.0))),
        FAR: Way(*map(pytest.approx, (50.0, 500.0))),
    }
    assert crossed(queued=0, running=0) == 0
    assert crossed(queued=30, running=0) == 0


def test_where_decode_nodes_read_by_themselves_no_place_is_better() -> None:
    here = fleet("decode-0", "decode-1", at={"decode-0": "z/a/h"}, pages=1000)
    view = View(0.0, here, Ledger(), Reach())
    taken = Counter[str]()
    for number in range(100):
        pair = choose(view, Query([1] * 50, 90, alone=True, request=str(number)), frozenset(), Rules())
        assert pair is not None
        taken[pair.decode.node] += 1
    assert min(taken["decode-0"], taken["decode-1"]) > 25


def test_in_a_large_fleet_a_near_pair_is_found() -> None:
    at = {f"{role}-{n}": f"z/r{n // 4}/h{n}" for role in ("prefill", "decode") for n in range(40)}
    here = fleet(*at, at=at, pages=1000)
    for number in range(40):  # the emptier a decode node, the farther away from the idlest prefill nodes
        report(here, f"decode-{number}", pages_free=900 + number)
        report(here, f"prefill-{number}", queued_tokens=number)
    chosen = {placed(here, Distances(), request=str(number)) for number in range(20)}
    assert all(node(here, p).place == node(here, d).place for p, d in chosen)


async def test_the_router_hears_what_handoffs_took_by_distance(tokenizer: Tokenizer) -> None:
    world = World(tokenizer, placement="round-robin")
    world.cluster.topologies = {name: RACKS[name] for name in ("prefill-0", "decode-0", "decode-1")}
    async with running(world, *world.cluster.topologies):
        for _ in range(2 * SEEN):
            assert (await world.complete()).status_code == 200
        distances = world.service.requests.placing._distances
        await world.until(lambda: set(distances.ways) == {FAR, NEAR})
        page = (await world.http.get("/metrics")).text
    for shares in (FAR, NEAR):
        assert f'pagewire:handoff_seconds_count{{shared="{shares}"}} {SEEN}.0' in page


async def test_what_is_told_after_a_request_has_ended_counts_too(tokenizer: Tokenizer) -> None:
    world = World(tokenizer)
    world.cluster.topologies, world.cluster.mute = RACKS, True
    async with running(world, "prefill-0", "decode-0"):
        assert (await world.complete()).status_code == 200
        (request,) = world.cluster.requests()
        told = replace(spans(20.0), request=request.request, node=NodeId("prefill-0"))
        who = peer("prefill-0")
        world.cluster.say(who, Tokens(*who, [], [told]))
        await world.until(lambda: world.service.requests.placing._distances._means)
        page = (await world.http.get("/metrics")).text
    assert f'pagewire:handoff_seconds_sum{{shared="{NEAR}"}} 0.02' in page
