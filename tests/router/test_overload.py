"""Ten times what the nodes can do, in virtual time: admission and queue keep them at what they do best."""

from __future__ import annotations

import functools

import pytest
from virtual_nodes import Virtual

SLO = 2.0
RATES = (600.0, 5000.0)  # of the prefill node: two laptop cores, and something better


@functools.cache
def peak(rate: float) -> float:
    """The most good requests a second, in closed loop."""
    found = []
    for clients in (4, 8, 16, 32):
        world = Virtual(SLO, rate=rate)
        world.run(20, world.clients(clients))
        found.append(world.good(0) / 20)
    return max(found)


def warm(rate: float) -> Virtual:
    """One that has seen what its nodes can do."""
    world = Virtual(SLO, rate=rate)
    world.run(15, world.clients(32))
    return world


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


@pytest.fixture(scope="module", params=RATES)
def flooded(request: pytest.FixtureRequest) -> tuple[Virtual, float]:
    """After 20 seconds of ten times the peak, open loop; and the peak."""
    best = peak(request.param)
    world = warm(request.param)
    world.run(20, world.poisson({"": 10 * best}))
    world.run(5, lambda: None)
    return world, best


def test_goodput_is_that_of_the_peak(flooded: tuple[Virtual, float]) -> None:
    world, best = flooded
    assert world.good(15) / 20 >= 0.9 * best


def test_who_is_admitted_is_answered_in_time(flooded: tuple[Virtual, float]) -> None:
    assert p99(flooded[0].ttfts(15)) <= 1.5 * SLO


def test_all_who_are_admitted_are_answered(flooded: tuple[Virtual, float]) -> None:
    world, _ = flooded
    assert world.door.inflight == len(world.backlog) == 0


def test_it_is_soon_as_it_was_before(flooded: tuple[Virtual, float]) -> None:
    world, best = flooded
    refused, now = len(world.refused), world.now
    world.run(20, world.poisson({"": best / 3}))
    assert len(world.refused) == refused
    assert p99(world.ttfts(now)) <= SLO


@pytest.mark.parametrize("rate", RATES)
def test_ten_times_as_many_clients_get_as_much(rate: float) -> None:
    world = warm(rate)
    world.run(20, world.clients(160))
    assert world.good(15) / 20 >= 0.9 * peak(rate)
    assert p99(world.ttfts(15)) <= 1.5 * SLO


def test_a_greedy_tenant_leaves_the_others_their_share() -> None:
    best, world = peak(5000.0), warm(5000.0)
    world.run(20, world.poisson({"greedy": 10 * best, "b": best / 2, "c": best / 2}))
    for tenant in "bc":
        assert world.good(15, tenant) / 20 >= 0.9 * best / 3


def test_a_burst_at_nodes_that_have_nothing_to_do_is_not_refused() -> None:
    world = Virtual(SLO, rate=5000.0)
    assert all(world.come() is not None for _ in range(10))
