"""A router on nodes of which two do not reach each other: what one request found out, the next one knows."""

from __future__ import annotations

import asyncio
import logging

import pytest
from conftest import ANSWER, World

CUT = ("prefill-0", "decode-0")


def pairs(world: World) -> list[tuple[str, str]]:
    """Where the attempts went, oldest first."""
    prefills = [to.node for to, message in world.cluster.sent if hasattr(message, "decode")]
    return list(zip(prefills, [str(r.decode.node) for r in world.cluster.requests()], strict=True))


async def gauge(world: World) -> str:
    page = (await world.http.get("/metrics")).text
    return next(line.split()[1] for line in page.splitlines() if line.startswith("pagewire:router_cut_pairs"))


def told(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in log.records if "reach each other" in record.message]


async def test_the_next_request_does_not_go_there(crowd: World, caplog: pytest.LogCaptureFixture) -> None:
    crowd.cluster.apart = {CUT}
    for _ in range(3):
        reply = await crowd.chat()
        assert reply.json()["choices"][0]["message"]["content"] == ANSWER
    assert pairs(crowd) == [CUT, ("prefill-1", "decode-1"), *[("prefill-1", "decode-0")] * 2]
    assert await gauge(crowd) == "1.0"
    assert told(caplog) == ["prefill-0 and decode-0 do not reach each other (peer_lost): others go first"]


async def test_it_heals_with_the_first_handoff_that_comes_through(
    crowd: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pagewire.router")
    crowd.cluster.apart = {CUT}
    crowd.service.requests.reach.first_s = 0.02
    await crowd.chat()
    crowd.cluster.apart = set()
    await asyncio.sleep(0.02)
    await crowd.chat()
    assert pairs(crowd)[-1] == CUT
    assert await gauge(crowd) == "0.0"
    assert told(caplog)[1:] == ["prefill-0 and decode-0 reach each other again"]


async def test_one_request_asks_and_the_others_keep_away(crowd: World) -> None:
    crowd.cluster.apart = {CUT}
    crowd.service.requests.reach.first_s = 0.02
    await crowd.chat()
    crowd.cluster.apart = set()
    crowd.cluster.hold_at = 0
    await asyncio.sleep(0.02)
    tasks = [asyncio.create_task(crowd.chat()) for _ in range(3)]
    await crowd.until(lambda: len(pairs(crowd)) == 5)
    assert pairs(crowd)[2:].count(CUT) == 1
    crowd.cluster.release()
    assert [reply.status_code for reply in await asyncio.gather(*tasks)] == [200] * 3
    assert await gauge(crowd) == "0.0"


async def test_a_request_that_ends_without_news_lets_the_next_one_ask(crowd: World) -> None:
    crowd.cluster.apart = {CUT}
    crowd.service.requests.reach.first_s = 0.02
    await crowd.chat()
    crowd.cluster.apart = set()
    await asyncio.sleep(0.02)
    for _ in range(2):
        await crowd.chat(max_tokens=1)  # the prefill node's token is the last
    assert pairs(crowd)[2:] == [CUT, CUT]
    assert await gauge(crowd) == "1.0"


async def test_the_next_life_of_a_node_is_another_matter(crowd: World) -> None:
    crowd.cluster.apart = {CUT}
    await crowd.chat()
    crowd.cluster.apart = set()
    crowd.cluster.kill("decode-0")
    crowd.cluster.join("decode-0", "e2")
    await crowd.until(lambda: crowd.service.fleet.nodes["decode-0"].hello.epoch == "e2")  # type: ignore[index]
    assert await gauge(crowd) == "0.0"
    await crowd.chat()
    assert pairs(crowd)[-1] == CUT


async def test_a_failure_of_a_dead_node_says_nothing_about_its_ways(crowd: World) -> None:
    crowd.cluster.kill("decode-0")
    await crowd.chat()
    assert await gauge(crowd) == "0.0"


async def test_where_no_pair_is_left_decode_reads_the_prompts(world: World) -> None:
    world.cluster.apart = {CUT}
    for _ in range(3):
        await world.chat()
    alone = ("decode-0", "decode-0")
    assert pairs(world) == [CUT, alone, CUT, alone, alone]  # the second time it is sure
