"""Real mailboxes, some of whose routers say no to a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from members import SECRET, member, record
from real_redis import RedisServer, free_port
from router_ends import HELLO, NODE, Router, told, until

from pagewire.mailbox import BEAT_EVERY_S, NodeMailbox, RouterLost
from pagewire.membership.enrol import enrol_node
from pagewire.messages import Cancel, NodeId, RequestId

Make = Callable[..., Router]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes routers, and closes them that are still open."""
    made: list[Router] = []

    def one(*args: object, **more: object) -> Router:
        made.append(Router(*args, **more))  # type: ignore[arg-type]
        return made[-1]

    yield one
    for router in made:
        await router.close()


def warnings(log: pytest.LogCaptureFixture, *words: str) -> list[str]:
    found = [r.getMessage() for r in log.records if r.levelname == "WARNING"]
    return [line for line in found if all(word in line for word in words)]


async def test_a_no_beside_a_welcome_leaves_the_node_where_it_is_welcome(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, ends = make("a", no="of another layout"), make("b"), list[str]()
    with closing(NodeMailbox(HELLO, [a.address, b.address], SECRET, ends.append)) as node:
        await until(lambda: a.hellos and node.up == {b.address})
        beats = b.beats
        await until(lambda: b.beats > beats + 3)  # a would be asked with each of these
        assert (a.hellos, ends) == (1, [])
        assert len(warnings(caplog, a.address, "of another layout")) == 1
        assert b.mailbox.send(NODE, Cancel(RequestId("r"), 1))
        await told(node, (NodeId("b"), Cancel(RequestId("r"), 1)))
        await a.close()
        port = int(a.address.rpartition(":")[2])
        make("a", port)  # another process, which may think otherwise
        await until(lambda: node.up == {a.address, b.address})


async def test_when_all_say_no_their_reasons_are_told(make: Make) -> None:
    a, b, ends = make("a", no="no room"), make("b", no="no time"), list[str]()
    with closing(NodeMailbox(HELLO, [a.address, b.address], SECRET, ends.append)):
        await until(lambda: ends)
    assert ends[0] == "no room; no time"


async def test_one_that_cannot_be_asked_has_not_said_no(make: Make) -> None:
    a, port, ends = make("a", no="no room"), free_port(), list[str]()
    with closing(NodeMailbox(HELLO, [a.address, f"tcp://127.0.0.1:{port}"], SECRET, ends.append)) as node:
        await until(lambda: a.hellos)
        await asyncio.sleep(2 * BEAT_EVERY_S)
        assert ends == []
        b = make("b", port)
        await until(lambda: node.up == {b.address})


async def test_one_that_has_said_no_is_asked_again_after_a_while(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagewire.mailbox.line.ASK_AGAIN_S", 1.2)
    a = make("a", no="there is a node of another version")
    with closing(NodeMailbox(HELLO, [a.address], SECRET)) as node:
        await until(lambda: a.hellos == 2)
        a.no = ""  # that node is gone
        await until(lambda: node.up == {a.address})
        assert a.hellos == 3


async def test_a_no_after_a_welcome_ends_what_runs_for_that_router(make: Make) -> None:
    a = make("a")
    with closing(NodeMailbox(HELLO, [a.address], SECRET)) as node:
        await until(lambda: node.up == {a.address})
        assert a.refuse_now()
        await told(node, (NodeId("a"), RouterLost(NodeId("a"))))
        assert not node.up


# --- by way of redis ----------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    monkeypatch.setattr("pagewire.membership.redis_registry.REFRESH_S", 0.3)
    with RedisServer() as running:
        yield running


async def test_a_router_of_another_version_is_passed_over_and_named_once(
    server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = make("a"), make("b")
    with ExitStack() as stack:
        node = stack.enter_context(closing(NodeMailbox(HELLO, [], SECRET)))
        others = record(name="b", epoch="of-b", address=b.address, version="7.3.0+12345678")
        stack.enter_context(member(server, others))
        seen = stack.enter_context(member(server, record(name="a", epoch="of-a", address=a.address)))
        leave = enrol_node(server.url, "c", HELLO, node, SECRET)
        await until(lambda: node.up == {a.address})
        await asyncio.to_thread(seen.looks_again, 4)  # as often as the node does, about
        assert node._thread.wanted == (a.address,)
        (line,) = warnings(caplog, "passed over")
        assert all(word in line for word in ("router b", b.address, "7.3.0+12345678", HELLO.version))
        await asyncio.to_thread(leave)
    assert b.hellos == 0
