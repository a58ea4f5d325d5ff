"""Real mailboxes whose routers come and go, by hand and by way of a real redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import pytest
from members import SECRET, member, record
from real_redis import RedisServer, free_port
from router_ends import HELLO, NODE, Router, told, until

from pagewire.mailbox import NodeMailbox, RouterLost
from pagewire.membership.enrol import enrol_node
from pagewire.messages import Cancel, NodeId, RequestId


@pytest.fixture
async def routers() -> AsyncIterator[list[Router]]:
    made = [Router("a"), Router("b")]
    yield made
    for router in made:
        await router.close()


@pytest.fixture
def node() -> Iterator[NodeMailbox]:
    mailbox = NodeMailbox(HELLO, [], SECRET)
    yield mailbox
    mailbox.close()


async def test_a_router_that_is_added_is_dialled(routers: list[Router], node: NodeMailbox) -> None:
    a, b = routers
    assert node.up == set()
    node.set_routers([a.address])
    await until(lambda: node.up == {a.address})
    node.set_routers([a.address, b.address, b.address])
    await until(lambda: node.up == {a.address, b.address})
    beats = a.beats, b.beats
    await until(lambda: a.beats > beats[0] + 1 and b.beats > beats[1] + 1)
    assert (a.hellos, b.hellos) == (1, 1)  # each line was left alone


async def test_a_router_that_is_taken_away_is_hung_up_on(routers: list[Router], node: NodeMailbox) -> None:
    a, b = routers
    node.set_routers([a.address, b.address])
    await until(lambda: len(node.up) == 2)
    node.set_routers([b.address])
    await told(node, (NodeId("a"), RouterLost(NodeId("a"))))
    assert node.up == {b.address}
    await until(lambda: not a.mailbox.send(NODE, Cancel(RequestId("r"), 1)))
    assert b.mailbox.send(NODE, Cancel(RequestId("r"), 2))
    await told(node, (NodeId("b"), Cancel(RequestId("r"), 2)))


async def test_routers_that_come_and_go_leave_nothing_behind(
    routers: list[Router], node: NodeMailbox
) -> None:
    a, _ = routers
    nobody = f"tcp://127.0.0.1:{free_port()}"
    before = None
    for _ in range(8):
        node.set_routers([a.address, nobody])
        await until(lambda: node.up == {a.address})
        node.set_routers([])
        await until(lambda: not node.up)
        before = psutil.Process().num_fds() if before is None else before
    await until(lambda: psutil.Process().num_fds() <= before + 2)


async def test_an_address_that_cannot_be_dialled_hurts_no_other(
    routers: list[Router], node: NodeMailbox
) -> None:
    node.set_routers(["tcp://nowhere", routers[0].address])
    await until(lambda: node.up == {routers[0].address})


@pytest.mark.timeout(20)
async def test_closing_does_not_wait_for_a_thread_that_has_ended_already() -> None:
    mailbox = NodeMailbox(HELLO, [], SECRET)
    mailbox._thread.stopping = True  # what close() does first, and what the thread may see before it is told
    await asyncio.to_thread(mailbox._thread.join)
    mailbox.close()


async def test_after_the_end_nothing_is_dialled() -> None:
    mailbox = NodeMailbox(HELLO, [], SECRET)
    mailbox.close()
    mailbox.set_routers(["tcp://127.0.0.1:1"])


# --- by way of redis ----------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    monkeypatch.setattr("pagewire.membership.store.TTL_S", 2.0)
    monkeypatch.setattr("pagewire.membership.redis_registry.REFRESH_S", 0.7)
    with RedisServer() as running:
        yield running


def listed(server: RedisServer, router: Router) -> Any:
    return member(server, record(name=router.name, epoch=f"of-{router.name}", address=router.address))


async def test_a_node_finds_the_routers_that_there_are_and_those_that_come(
    server: RedisServer, routers: list[Router], node: NodeMailbox
) -> None:
    a, b = routers
    leave = enrol_node(server.url, "c", HELLO, node, SECRET)
    with listed(server, a):
        await until(lambda: node.up == {a.address})
        begun = time.monotonic()
        with listed(server, b):
            await until(lambda: node.up == {a.address, b.address}, 1.0)
            print(f"a new router was joined after {time.monotonic() - begun:.3f} s")
            assert server.do("SMEMBERS", "pagewire:{c}:names:decode") in ({b"decode-0"}, [b"decode-0"])
    await asyncio.sleep(1.5)  # both have left, and live: two refreshes change nothing
    assert node.up == {a.address, b.address}
    await a.close()
    await until(lambda: node._thread.wanted == (b.address,))
    routers[0] = Router("a")
    await asyncio.to_thread(leave)
    await asyncio.to_thread(leave)
    assert server.do("EXISTS", "pagewire:{c}:decode:decode-0") == 0


async def test_a_router_that_was_killed_is_forgotten_when_its_record_ends(
    server: RedisServer, routers: list[Router], node: NodeMailbox
) -> None:
    a, b = routers
    leave = enrol_node(server.url, "c", HELLO, node, SECRET)
    with listed(server, b), listed(server, a) as of_a:
        await until(lambda: len(node.up) == 2)
        of_a.registry._fenced = True  # its record is as a dead process leaves it
        await a.close()
        await told(node, (NodeId("a"), RouterLost(NodeId("a"))))
        assert a.address in node._thread.wanted  # the record still stands: it may come back
        await until(lambda: node._thread.wanted == (b.address,))
        assert node.up == {b.address}
        routers[0] = Router("a")
    await asyncio.to_thread(leave)


async def test_without_redis_lines_stay_and_work(
    server: RedisServer, routers: list[Router], node: NodeMailbox
) -> None:
    a, b = routers
    leave = enrol_node(server.url, "c", HELLO, node, SECRET)
    with listed(server, a), listed(server, b):
        await until(lambda: len(node.up) == 2)
        server.kill()
        await asyncio.sleep(3.0)  # more than a record stands
        assert node.up == {a.address, b.address}
        assert (a.hellos, b.hellos) == (1, 1)
        assert a.mailbox.send(NODE, Cancel(RequestId("r"), 1))
        await told(node, (NodeId("a"), Cancel(RequestId("r"), 1)))
        await asyncio.to_thread(server.start)
        await until(lambda: server.do("EXISTS", "pagewire:{c}:router:a", "pagewire:{c}:router:b") == 2)
        assert (a.hellos, b.hellos) == (1, 1)
    await asyncio.to_thread(leave)
