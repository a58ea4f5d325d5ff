"""The dashboard's server side: what is shown, to whom, and that watching stays cheap and bounded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from conftest import World
from test_recorder import ENDED

from pagewire.errors import Unavailable
from pagewire.messages import Epoch, Load, NodeId
from router.app import make
from router.dashboard.live import MAX_WATCHERS, ROWS, Live
from router.dashboard.pages import POLICY
from router.dashboard.series import POINTS, Series
from router.dashboard.snapshot import node_view, row, ways
from router.fleet import Fleet
from router.keys import KeyRing
from router.metrics import Metrics

QUESTION = "zebra crossing midnight"


def client(world: World, *keys: str) -> httpx.AsyncClient:
    app = make(world.front, KeyRing(keys), live=Live(world.service, "demo"))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def parsed(event: bytes) -> tuple[str, dict[str, Any]]:
    name, data, *_ = event.decode().split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


# --- the page -----------------------------------------------------------------------------------------------


async def test_the_page_is_open_and_its_data_is_not(world: World) -> None:
    async with client(world, "sk-right") as http:
        assert (await http.get("/dashboard")).status_code == 200
        assert (await http.get("/dashboard/events")).status_code == 401


@pytest.mark.parametrize(
    "path", ["", "/app.js", "/style.css", "/vendor/uPlot.esm.js", "/vendor/uPlot.min.css"]
)
async def test_every_file_comes_with_the_policy(world: World, path: str) -> None:
    async with client(world) as http:
        reply = await http.get(f"/dashboard{path}")
    assert reply.status_code == 200
    assert reply.headers["content-security-policy"] == POLICY
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/nothing.js", "/../live.py", "/%2e%2e/live.py", "/vendor/LICENSE", "/vendor"]
)
async def test_nothing_else_is_served(world: World, path: str) -> None:
    async with client(world) as http:
        assert (await http.get(f"/dashboard{path}")).status_code == 404


async def test_a_file_that_is_known_is_not_sent_again(world: World) -> None:
    async with client(world) as http:
        etag = (await http.get("/dashboard/app.js")).headers["etag"]
        again = await http.get("/dashboard/app.js", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")


async def test_without_it_there_is_no_page(world: World) -> None:
    assert (await world.http.get("/dashboard")).status_code == 404


# --- watching -----------------------------------------------------------------------------------------------


async def test_a_watcher_gets_all_and_then_what_is_new(world: World) -> None:
    live = Live(world.service, "demo")
    live.tick()
    watching = live.watch()
    name, everything = parsed(await anext(watching))
    assert (name, everything["rows"]) == ("all", [])
    await world.chat(timing=True)
    live.tick()
    name, tick = parsed(await anext(watching))
    assert name == "tick"
    (one,) = tick["rows"]
    assert [segment["name"] for segment in one["segments"]] == ["queue", "prefill", "handoff", "decode"]
    assert tick["point"]["output_rate"] > 0
    assert {node["node"] for node in tick["state"]["nodes"]} == {"prefill-0", "decode-0"}
    await watching.aclose()
    assert live.watchers == 0


async def test_a_watcher_that_missed_a_tick_gets_all_again(world: World) -> None:
    live = Live(world.service, "demo")
    watching = live.watch()
    await anext(watching)
    live.tick()
    live.tick()
    assert parsed(await anext(watching))[0] == "all"
    await watching.aclose()


async def test_all_who_watch_are_sent_the_same_bytes(world: World) -> None:
    live = Live(world.service, "demo")
    one, other = live.watch(), live.watch()
    await anext(one)
    await anext(other)
    live.tick()
    assert await anext(one) is await anext(other)
    await one.aclose()
    await other.aclose()


async def test_so_many_may_watch_and_no_more(world: World) -> None:
    live = Live(world.service, "demo")
    watching = [live.watch() for _ in range(MAX_WATCHERS)]
    for each in watching:
        await anext(each)
    with pytest.raises(Unavailable):
        await anext(live.watch())
    for each in watching:
        await each.aclose()


async def test_a_router_that_drains_ends_the_stream(world: World) -> None:
    live = Live(world.service, "demo")
    watching = live.watch()
    await anext(watching)
    world.service.draining = True
    live.tick()
    with pytest.raises(StopAsyncIteration):
        await anext(watching)


async def test_nothing_of_what_was_said_is_shown(world: World) -> None:
    live = Live(world.service, "demo")
    await world.chat(QUESTION, user="zebra", timing=True)
    live.tick()
    watching = live.watch()
    seen = (await anext(watching)).decode()
    await watching.aclose()
    assert '"rows":[{' in seen
    assert not [word for word in [*QUESTION.split(), "Hello", "test."] if word in seen]


async def test_rows_are_bounded(world: World) -> None:
    live = Live(world.service, "demo")
    for _ in range(3):
        for observer in world.service.requests.recorder.observers:
            for _ in range(ROWS):
                observer(ENDED)
        live.tick()
    watching = live.watch()
    assert len(parsed(await anext(watching))[1]["rows"]) == ROWS
    await watching.aclose()


# --- shapes -------------------------------------------------------------------------------------------------


def test_points_are_of_the_last_ten_minutes_and_their_rates_of_the_last_seconds() -> None:
    fleet, series = Fleet(NodeId("r"), Epoch("e"), "0"), Series()
    metrics = Metrics(fleet, lambda: 0, lambda: 0, lambda: 0)
    for second in range(POINTS + 5):
        metrics.generation_tokens.inc(7 if second < POINTS else 12)
        point = series.sample(float(second), 1e9 + second, metrics, fleet, 0)
        assert point.output_rate == (0 if second == 0 else 7 if second < POINTS else 8 + second - POINTS)
    assert len(series.columns()["t"]) == POINTS


def test_latencies_are_of_the_last_seconds_only() -> None:
    fleet, series = Fleet(NodeId("r"), Epoch("e"), "0"), Series()
    metrics = Metrics(fleet, lambda: 0, lambda: 0, lambda: 0)
    series.sample(0.0, 0.0, metrics, fleet, 0)
    metrics.ttft.observe(0.2)
    assert series.sample(1.0, 1.0, metrics, fleet, 0).ttft_p50 == pytest.approx(200, rel=0.3)
    for second in range(2, 8):
        point = series.sample(float(second), 0.0, metrics, fleet, 0)
    assert point.ttft_p50 is None


async def test_a_card_counts_pages_once(world: World) -> None:
    node = world.service.fleet.nodes[NodeId("decode-0")]
    gauges = {"pages_cached": 25.0, "transfer_bytes": 2e3}
    node.reported(Load(pages_free=60, pages_total=100, steps=30, gauges=gauges))
    before = Load(steps=10, gauges={"transfer_bytes": 1e3})
    seen = node_view(node.heard, node, before, 2.0)
    assert seen["pages"] == {"total": 100, "used": 40, "cached": 25.0, "size": 16}
    assert (seen["steps_rate"], seen["bytes_rate"]) == (10.0, 500.0)
    assert node_view(node.heard, node, None, 2.0)["steps_rate"] == 0.0


async def test_a_request_is_on_the_way_that_it_is_on(world: World) -> None:
    world.cluster.hold_at = 0
    task = asyncio.create_task(world.chat())
    await world.until(lambda: world.cluster.requests())
    assert ways(world.service.requests, []) == [
        {"from": "", "to": "prefill-0", "now": 1, "done": 0, "bytes": 0}
    ]
    world.cluster.hold_at = 2
    world.cluster.release()
    await task
    assert ways(world.service.requests, []) == []


def test_what_came_through_is_on_all_its_ways() -> None:
    found = {(way["from"], way["to"]): (way["done"], way["bytes"]) for way in ways([], [ENDED, ENDED])}
    assert found == {
        ("", "prefill-0"): (2, 0),
        ("prefill-0", "decode-0"): (2, 1280),
        ("decode-0", ""): (2, 0),
    }


def test_a_row_is_dated_on_the_clock_of_the_wall() -> None:
    seen = row(ENDED, now=10.0, unix=1000.0)
    assert (seen["at"], seen["ttft_ms"], seen["total_ms"]) == (995.0, 1000.0, 3500.0)
