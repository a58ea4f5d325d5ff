"""The router when more comes than the nodes can use: who waits, who goes first, who is sent away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from conftest import World, running
from router_stubs import peer

from pagewire.priority import PRIORITIES
from pagewire.text.tokenizer import Tokenizer
from router.ledger import Ledger

KEYS = ("sk-a", "sk-b")


@pytest.fixture
async def narrow(tokenizer: Tokenizer) -> AsyncIterator[World]:
    """Nodes that have use for one prompt at a time, and a router with two keys that takes eight requests."""
    made = World(tokenizer, api_keys=KEYS, max_inflight=8, max_inflight_per_key=6)
    made.cluster.max_batch_tokens = 1
    made.cluster.hold_at = 0
    async with running(made, "prefill-0", "decode-0"):
        yield made


class Asked:
    """Chats under way, by name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: dict[str, asyncio.Task[httpx.Response]] = {}

    async def ask(self, name: str, key: str = KEYS[0], **more: Any) -> asyncio.Task[httpx.Response]:
        """Returns when the router has it in its hands."""
        known = self.world.service.inflight
        headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
        body = {"messages": [{"role": "user", "content": name}], **more}
        call = self.world.http.post("/v1/chat/completions", json=body, headers=headers)
        self.tasks[name] = asyncio.create_task(call)
        await self.world.until(lambda: self.world.service.inflight > known or self.tasks[name].done())
        return self.tasks[name]

    def order(self) -> list[str]:
        """Whose prompts were sent out, in that order."""
        decode = self.world.tokenizer.decode
        texts = [decode(r.tokens, skip_special_tokens=True) for r in self.world.cluster.requests()]
        return [next(name for name in self.tasks if name in text) for text in texts]

    async def all(self) -> list[int]:
        self.world.cluster.release()
        return [(await task).status_code for task in self.tasks.values()]


@pytest.fixture
def asked(narrow: World) -> Asked:
    return Asked(narrow)


def waiting(world: World) -> int:
    return len(world.service.requests.backlog)


def idle(world: World) -> bool:
    held = world.service.inflight, world.service.admission.inflight, waiting(world)
    return held == (0, 0, 0) and world.service.requests.ledger == Ledger()


async def test_no_more_go_to_the_nodes_than_they_have_use_for(narrow: World, asked: Asked) -> None:
    for name in ("one", "two", "three", "four"):
        await asked.ask(name)
    assert asked.order() == ["one", "two"]
    assert waiting(narrow) == 2
    assert await asked.all() == [200] * 4
    assert asked.order() == ["one", "two", "three", "four"]
    assert idle(narrow)


async def test_a_tenant_with_a_backlog_does_not_keep_another_waiting(asked: Asked) -> None:
    for name in ("one", "two", "three", "four", "five"):
        await asked.ask(name, max_tokens=200, ignore_eos=True)
    await asked.ask("modest", KEYS[1], max_tokens=200, ignore_eos=True)
    await asked.all()
    assert asked.order().index("modest") < asked.order().index("five")


async def test_the_urgent_go_first(asked: Asked) -> None:
    for name in ("one", "two", "usual"):
        await asked.ask(name)
    await asked.ask("urgent", priority=-5)
    await asked.all()
    assert asked.order() == ["one", "two", "urgent", "usual"]


async def test_priority_travels_to_the_nodes(narrow: World, asked: Asked) -> None:
    await asked.ask("one", priority=3)
    assert narrow.cluster.requests()[0].priority == 3


async def test_a_priority_may_be_any_number(world: World) -> None:
    assert (await world.chat(priority=1 << 70)).status_code == 200
    assert world.cluster.requests()[0].priority == PRIORITIES[-1]


@pytest.mark.parametrize("value", ["1", 1.5, True])
async def test_a_priority_is_a_whole_number(world: World, value: object) -> None:
    reply = await world.chat(priority=value)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "priority")


async def test_a_key_that_has_its_share_in_hand_is_told_so(narrow: World, asked: Asked) -> None:
    for number in range(6):
        await asked.ask(f"number {number}")
    reply = await (await asked.ask("one more"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(reply.headers["retry-after"]) <= 5
    assert not (await asked.ask("another's", KEYS[1])).done()


async def test_a_router_that_is_full_reads_no_body(crowd: World) -> None:
    crowd.cluster.hold_at = 0
    tasks = [asyncio.create_task(crowd.chat()) for _ in range(4)]
    await crowd.until(lambda: crowd.service.inflight == 4)
    reply = await crowd.http.post("/v1/completions", content=b"no JSON")
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "overloaded")
    crowd.cluster.release()
    await asyncio.gather(*tasks)


async def test_a_request_that_is_refused_later_gives_its_place_back(world: World) -> None:
    assert (await world.post("/v1/completions", prompt=[])).status_code == 400
    assert world.service.admission.inflight == 0


async def test_each_prompt_takes_a_place(crowd: World) -> None:
    assert (await crowd.complete(["a"] * 5)).status_code == 429
    assert (await crowd.complete(["a"] * 4)).status_code == 200
    assert crowd.service.admission.inflight == 0


async def test_one_that_gives_up_while_it_waits_costs_the_nodes_nothing(narrow: World, asked: Asked) -> None:
    for name in ("one", "two", "gone"):
        await asked.ask(name)
    asked.tasks.pop("gone").cancel()
    await narrow.until(lambda: waiting(narrow) == 0)
    assert narrow.service.admission.inflight == 2
    await asked.all()
    assert asked.order() == ["one", "two"]


async def test_a_deadline_passes_while_it_waits(narrow: World, asked: Asked) -> None:
    for name in ("one", "two"):
        await asked.ask(name)
    reply = await (await asked.ask("hasty", headers={"x-request-timeout-ms": "60"}))
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert asked.order() == ["one", "two"]


async def test_a_clients_deadline_travels_with_its_request(narrow: World, asked: Asked) -> None:
    await asked.ask("one", headers={"x-request-timeout-ms": "5000"})
    assert 4000 < narrow.cluster.requests()[0].deadline_ms <= 5000


async def test_a_clients_deadline_is_no_later_than_ours(narrow: World, asked: Asked) -> None:
    await asked.ask("one", headers={"x-request-timeout-ms": "9999999999"})
    assert narrow.cluster.requests()[0].deadline_ms <= 600_000


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", ""])
async def test_a_deadline_that_is_none(world: World, value: str) -> None:
    headers = {"x-request-timeout-ms": value}
    reply = await world.http.post("/v1/completions", json={"prompt": "x"}, headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-request-timeout-ms")


async def test_those_that_wait_outlive_a_node(narrow: World, asked: Asked) -> None:
    for name in ("one", "two", "three"):
        await asked.ask(name)
    narrow.cluster.kill("decode-0")
    await narrow.until(lambda: not narrow.service.fleet.able or narrow.service.sweep())
    narrow.cluster.join("decode-0", "e2")
    assert await asked.all() == [200] * 3
    assert idle(narrow)


async def test_the_end_of_the_server_sends_nobody_out(narrow: World, asked: Asked) -> None:
    from pagewire.errors import Unavailable

    for name in ("one", "two", "three"):
        await asked.ask(name)
    narrow.service.requests.fail_all(Unavailable("the end"))
    assert await asked.all() == [503] * 3
    assert asked.order() == ["one", "two"]
    assert idle(narrow)


async def test_a_node_that_joins_has_work_at_once(narrow: World, asked: Asked) -> None:
    for name in ("one", "two", "three"):
        await asked.ask(name)
    narrow.cluster.join("prefill-1")
    await narrow.until(lambda: len(asked.order()) == 3)
    assert narrow.cluster.sent[-1][0] == peer("prefill-1")


async def test_waiting_for_ones_turn_is_part_of_the_time_in_queues(asked: Asked) -> None:
    for name in ("one", "two"):
        await asked.ask(name)
    task = await asked.ask("three", timing=True)
    await asyncio.sleep(0.05)
    await asked.all()
    assert task.result().json()["timing"]["queue_ms"] >= 50
