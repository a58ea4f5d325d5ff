"""Router and nodes on real sockets: joining, ordered delivery, and being told when the other side is gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from pagewire.codec import seal
from pagewire.errors import ConfigError
from pagewire.layout import KVLayout
from pagewire.mailbox import SPEAKS, TO_NODE, TO_ROUTER, NodeMailbox, Peer, RouterLost, RouterMailbox
from pagewire.messages import Beat, Cancel, Epoch, Failed, Hello, Load, NodeId, RequestId, Welcome
from pagewire.versions import LEVEL

LAYOUT = KVLayout(2, 1, 8, "float32", "m")


def hello(node: str = "decode-0", epoch: str = "e1") -> Hello:
    return Hello(
        NodeId(node), Epoch(epoch), "decode", "0.1.0", 1, LAYOUT, "tcp://127.0.0.1:1", "m", 64, 8, 16
    )


def welcome(epoch: str = "r1", refused: str = "", session: int = 1) -> Welcome:
    return Welcome(NodeId("router"), Epoch(epoch), refused, session)


class Between:
    """A proxy that can end a connection towards the node while the router's end stays open. While it is
    ``strange``, it answers as a socket of another kind would: ZMTP's greeting, without CURVE."""

    GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)

    def __init__(self, port: int) -> None:
        self.strange = False
        self.answered = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._port = port
        self._near: list[socket.socket] = []
        self._far: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hang_up_on_the_node(self) -> None:
        self._near[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for end in (self._listener, *self._near, *self._far):
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.strange:
                    near.sendall(self.GREETING)
                    while near.recv(1 << 16):  # the node is the one who hangs up
                        pass
                    near.close()
                    self.answered += 1
                    continue
                far = socket.create_connection(("127.0.0.1", self._port))
                self._near.append(near)
                self._far.append(far)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[RouterMailbox]:
    mailbox = RouterMailbox(f"ipc://{tmp_path}/control")
    yield mailbox
    mailbox.close()


async def join(router: RouterMailbox, node: NodeMailbox) -> Peer:
    peer, _ = await until(router, Hello)
    assert router.send(peer, welcome())
    return peer


async def until(router: RouterMailbox, kind: type) -> tuple[Peer, Any]:
    async with asyncio.timeout(10):
        while True:
            peer, message = await router.receive()
            if isinstance(message, kind):
                return peer, message


async def drained(node: NodeMailbox, done: Callable[[list[Any]], bool]) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(10):
        while not done(found):
            await asyncio.to_thread(node.socket.poll, 50, zmq.POLLIN)
            found += node.drain()
    return found


async def test_a_node_joins_and_messages_keep_their_order(router: RouterMailbox) -> None:
    node = NodeMailbox(hello(), [router.address])
    peer = await join(router, node)
    for attempt in range(100):
        assert router.send(peer, Cancel(RequestId("r"), attempt))
    found = await drained(node, lambda got: len(got) == 100)
    assert [message.attempt for _, message in found] == list(range(100))
    for attempt in range(100):
        node.send(NodeId("router"), Failed(peer.node, peer.epoch, RequestId("r"), attempt, "c", "m", True))
    for attempt in range(100):
        assert (await until(router, Failed))[1].attempt == attempt
    node.close()


async def test_heartbeats_carry_the_load(router: RouterMailbox) -> None:
    node = NodeMailbox(hello(), [router.address])
    await join(router, node)
    node.report(Load(running=3))
    async with asyncio.timeout(10):
        while (await until(router, Beat))[1].load.running != 3:
            pass
    node.close()


async def test_sending_to_an_unknown_node_fails_at_once(router: RouterMailbox) -> None:
    assert not router.send(Peer(NodeId("nobody"), Epoch("e")), Cancel(RequestId("r"), 1))


async def test_a_node_says_hello_as_soon_as_the_connection_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagewire.mailbox.node_thread.BEAT_EVERY_S", 3600.0)
    address = f"ipc://{tmp_path}/control"
    node = NodeMailbox(hello(), [address])
    await asyncio.sleep(0.2)  # its first heartbeat finds nobody
    for _ in range(20):
        router = RouterMailbox(address)
        peer, message = await until(router, Hello)
        assert router.send(peer, welcome(session=message.session))
        router.close()
    node.close()


async def test_an_unasked_welcome_means_the_router_forgot_us(router: RouterMailbox) -> None:
    node = NodeMailbox(hello(), [router.address])
    peer = await join(router, node)
    await until(router, Beat)
    router.send(peer, welcome("r2", session=0))
    assert await drained(node, lambda got: bool(got)) == [(NodeId("router"), RouterLost(NodeId("router")))]
    await until(router, Hello)
    node.close()


async def test_a_silent_router_is_lost(router: RouterMailbox) -> None:
    node = NodeMailbox(hello(), [router.address])
    await join(router, node)
    found = await drained(node, lambda got: bool(got))
    assert found[0][1] == RouterLost(NodeId("router"))
    node.close()


async def test_an_answer_to_an_old_hello_changes_nothing(router: RouterMailbox) -> None:
    node = NodeMailbox(hello(), [router.address])
    peer = await join(router, node)
    await until(router, Beat)
    for session in (1, 7):
        router.send(peer, welcome(session=session))
    router.send(peer, Cancel(RequestId("r"), 1))
    found = await drained(node, lambda got: bool(got))
    assert [message for _, message in found] == [Cancel(RequestId("r"), 1)]
    node.close()


async def test_a_broken_connection_begins_a_new_session() -> None:
    """What was on it is lost, so both ends must know: even if the old one still looks alive to the router."""
    router = RouterMailbox("tcp://127.0.0.1:0")
    between = Between(int(router.address.rsplit(":", 1)[1]))
    node = NodeMailbox(hello(), [between.address])
    peer = await join(router, node)
    await until(router, Beat)
    between.hang_up_on_the_node()
    assert [message for _, message in await drained(node, bool)] == [RouterLost(NodeId("router"))]
    again, message = await until(router, Hello)
    assert (again, message.session) == (peer, 2)
    router.send(peer, welcome(session=2))
    await until(router, Beat)
    node.close()
    between.close()
    router.close()


async def test_a_refusal_reaches_the_node(router: RouterMailbox) -> None:
    reasons: list[str] = []
    node = NodeMailbox(hello(), [router.address], refused=reasons.append)
    peer, _ = await until(router, Hello)
    router.send(peer, welcome(refused="layers 2 != 3"))
    async with asyncio.timeout(10):
        while not reasons:
            await asyncio.sleep(0.01)
    assert reasons[0] == "layers 2 != 3"
    node.close()


async def test_a_malformed_message_is_counted_and_skipped(router: RouterMailbox) -> None:
    context = zmq.Context()
    raw = context.socket(zmq.DEALER)
    raw.setsockopt(zmq.IDENTITY, b"decode-0/e1")
    raw.connect(router.address)
    raw.send(b"\xc1 not msgpack")
    raw.send_multipart([b"too", b"many"])
    node = NodeMailbox(hello("other"), [router.address])
    await until(router, Hello)
    async with asyncio.timeout(10):
        while router.refused < 2:
            await until(router, Hello)
    node.close()
    raw.close(linger=0)
    context.term()


LATER = seal(msgpack.packb([LEVEL + 1, "Later", {"when": 7}]))


async def test_words_of_a_newer_version_are_ignored_and_counted(router: RouterMailbox) -> None:
    node = NodeMailbox(hello(), [router.address])
    peer = await join(router, node)
    await until(router, Beat)
    node._out.send_multipart([b"router", LATER])
    await router._socket.send_multipart([b"decode-0/e1", LATER])
    assert router.send(peer, Cancel(RequestId("r"), 1))
    assert [message for _, message in await drained(node, bool)] == [Cancel(RequestId("r"), 1)]
    node.report(Load())
    async with asyncio.timeout(10):
        while (await until(router, Beat))[1].load.gauges.get("mailbox_newer") != 1.0:
            node.report(Load())
    assert (router.newer, router.refused) == (1, 0)
    node.close()


async def test_a_router_of_any_version_can_refuse_a_node(router: RouterMailbox) -> None:
    reasons: list[str] = []
    node = NodeMailbox(hello(), [router.address], refused=reasons.append)
    await until(router, Hello)
    for level in (LEVEL, LEVEL + 7000):  # of ours, a message that is not one says nothing
        said = seal(msgpack.packb([level, "Welcome", {"refused": f"told by {level}", "colour": "green"}]))
        await router._socket.send_multipart([b"decode-0/e1", said])
    async with asyncio.timeout(10):
        while not reasons:
            await asyncio.sleep(0.01)
    assert reasons[0] == f"told by {LEVEL + 7000}"
    node.close()


@pytest.mark.parametrize("form", ["today's", "one that may come"])
async def test_a_node_of_another_version_is_told_so_whatever_its_hello_looks_like(
    router: RouterMailbox, form: str
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    line = context.socket(zmq.DEALER)
    line.setsockopt(zmq.IDENTITY, b"decode-0/e1")
    line.connect(router.address)
    fields = {"node": "decode-0", "version": "77.1.0+aaaaaaaa", "colour": "green"}
    line.send(seal(msgpack.packb([77001, *([] if form == "today's" else [{}]), "Hello", fields])))
    receiving = asyncio.create_task(router.receive())
    assert await asyncio.to_thread(line.poll, 5000)
    told = TO_NODE.decode(line.recv())
    assert told.refused == f"version 77.1.0+aaaaaaaa does not go with {SPEAKS}"
    receiving.cancel()
    line.close(linger=0)
    context.term()


async def test_beyond_loopback_needs_a_secret() -> None:
    with pytest.raises(ConfigError, match="secret"):
        RouterMailbox("tcp://0.0.0.0:0")


OURS, THEIRS = b"o" * 32, b"t" * 32


def told(log: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in log.records if r.name == "pagewire.mailbox" and r.levelname == "WARNING"]


async def waited(log: pytest.LogCaptureFixture, seconds: float) -> list[str]:
    """The warnings of the mailboxes, as soon as there is one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not told(log):
                await asyncio.sleep(0.01)
    return told(log)


@pytest.mark.parametrize("theirs", [THEIRS, None])
async def test_a_node_with_another_secret_says_so(
    theirs: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    router = RouterMailbox("tcp://127.0.0.1:0", OURS)
    node = NodeMailbox(hello(), [router.address], theirs)
    (line,) = await waited(caplog, 5.0)
    assert router.address in line
    assert "secret" in line
    node.close()
    router.close()


async def test_a_node_with_the_right_secret_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    router = RouterMailbox("tcp://127.0.0.1:0", OURS)
    node = NodeMailbox(hello(), [router.address], OURS)
    await join(router, node)
    await until(router, Beat)
    assert told(caplog) == []
    node.close()
    router.close()


async def test_a_node_without_a_router_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagewire.dialling.PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    node = NodeMailbox(hello(), [address], OURS)
    (line,) = await waited(caplog, 5.0)
    assert f"no router can be reached at {address}" in line
    node.close()


async def test_a_node_that_met_another_kind_of_server_dials_again() -> None:
    router = RouterMailbox("tcp://127.0.0.1:0", OURS)
    between = Between(int(router.address.rsplit(":", 1)[1]))
    between.strange = True
    node = NodeMailbox(hello(), [between.address], OURS)
    async with asyncio.timeout(10):
        while not between.answered:
            await asyncio.sleep(0.01)
    between.strange = False
    peer, message = await until(router, Hello)
    router.send(peer, welcome(session=message.session))
    await until(router, Beat)
    node.close()
    between.close()
    router.close()


async def test_a_node_that_dials_again_is_heard_before_its_old_line_is_cut(router: RouterMailbox) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    lines = [context.socket(zmq.DEALER) for _ in range(2)]
    for epoch, line in enumerate(lines):
        line.setsockopt(zmq.IDENTITY, b"decode-0/e1")
        line.connect(router.address)
        line.send(TO_ROUTER.encode(Beat(NodeId("decode-0"), Epoch("e1"), Load(running=epoch))))
        assert (await until(router, Beat))[1].load.running == epoch
    assert router.send(Peer(NodeId("decode-0"), Epoch("e1")), welcome())
    assert await asyncio.to_thread(lines[1].poll, 5000)
    for line in lines:
        line.close(linger=0)
    context.term()
