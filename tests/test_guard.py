"""Strangers at a CURVE socket: counted, named, few and light."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import zmq

from pagewire.guard import Guard, Newcomers
from pagewire.secret import apply_client, apply_server

SECRET = b"s" * 32


class Server(NamedTuple):
    socket: zmq.Socket[bytes]
    guard: Guard
    port: int


@pytest.fixture
def server() -> Iterator[Server]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    bound = context.socket(zmq.ROUTER)
    bound.setsockopt(zmq.HANDSHAKE_IVL, 500)
    guard = apply_server(bound, SECRET, "router", ("prefill",))
    assert guard is not None
    bound.bind("tcp://127.0.0.1:*")
    yield Server(bound, guard, int(bound.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1]))
    bound.close(linger=0)
    guard.stop()
    context.term()


def until(probe: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not probe():
        assert time.monotonic() < end
        time.sleep(0.005)


def dial(port: int, prepare: Callable[[zmq.Socket[bytes]], None]) -> zmq.Socket[bytes]:
    made: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    prepare(made)
    made.connect(f"tcp://127.0.0.1:{port}")
    with contextlib.suppress(zmq.Again):  # one that was refused by now has nowhere to send it
        made.send(b"hello", zmq.NOBLOCK)
    return made


def test_an_admitted_peer_brings_its_name_along(server: Server) -> None:
    client = dial(server.port, lambda s: apply_client(s, SECRET, "prefill", "router"))
    frame = server.socket.recv_multipart(copy=False)[1]
    assert frame.get("User-Id") == "prefill"
    client.close()


def test_a_key_of_another_side_is_denied_and_named(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    client = dial(server.port, lambda s: apply_client(s, SECRET, "decode", "router"))
    until(lambda: server.guard.refusals.denied)
    assert "refused 127.0.0.1: its key may not come here" in caplog.text
    client.close()


@pytest.mark.parametrize(
    "prepare",
    [lambda s: None, lambda s: apply_client(s, b"w" * 32, "prefill", "router")],
    ids=["no key", "another secret"],
)
def test_a_wrong_handshake_is_counted_and_named(
    server: Server, caplog: pytest.LogCaptureFixture, prepare: Callable[[zmq.Socket[bytes]], None]
) -> None:
    client = dial(server.port, prepare)
    until(lambda: server.guard.refusals.failed)
    until(lambda: "refused a connection" in caplog.text)
    client.close()


def test_silence_is_a_wrong_handshake(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        until(lambda: server.guard.refusals.failed)


# --- newcomers ----------------------------------------------------------------------------------------------


class World:
    """A listening port and connections to it, as ``Newcomers`` sees them."""

    def __init__(self, newcomers: Newcomers) -> None:
        self.newcomers = newcomers
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = b"tcp://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []

    def connect(self, sent: int = 0) -> socket.socket:
        near = socket.create_connection(self.listener.getsockname())
        far, _ = self.listener.accept()
        near.sendall(bytes(sent))
        self.pairs.append((near, far))
        self.newcomers.add(far.fileno(), self.endpoint)
        return near

    def hung_up(self) -> list[bool]:
        found = []
        for near, _ in self.pairs:
            near.setblocking(False)
            try:
                found.append(near.recv(1) == b"")
            except BlockingIOError:
                found.append(False)
            except ConnectionResetError:
                found.append(True)
        return found

    def close(self) -> None:
        for one in (self.listener, *(s for pair in self.pairs for s in pair)):
            one.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World(Newcomers(most=3, most_bytes=10_000))
    yield made
    made.close()


def test_too_many_and_the_oldest_go(world: World) -> None:
    for _ in range(5):
        world.connect()
    assert world.newcomers.make_room() == 2
    assert world.hung_up() == [True, True, False, False, False]
    assert world.newcomers.crowded == 2


def test_bytes_are_counted_of_no_more_than_may_stay(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else counting takes the longer the more there are, and those who belong here never come through."""
    counted: list[int] = []
    monkeypatch.setattr("pagewire.guard._received", lambda fd, port: counted.append(fd) or 0)
    for _ in range(9):
        world.connect()
    world.newcomers.make_room()
    assert len(counted) == 3


def test_too_much_and_the_heaviest_go(world: World) -> None:
    for size in (2_000, 9_000, 3_000):
        world.connect(size)
    until(world.newcomers.make_room)
    assert world.hung_up() == [False, True, False]


def test_who_was_met_is_no_newcomer(world: World) -> None:
    for _ in range(5):
        world.connect(9_000)
        world.newcomers.met(world.pairs[-1][1].fileno())
    assert not world.newcomers.make_room()
    assert not len(world.newcomers)


def test_a_descriptor_that_belongs_to_something_else_by_now_is_left_alone(world: World) -> None:
    ours, theirs = socket.socketpair()
    for _ in range(3):
        world.connect()
    world.newcomers._since[ours.fileno()] = world.newcomers._since.pop(world.pairs[0][1].fileno())
    world.connect()
    world.connect()
    assert world.newcomers.make_room()
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    for one in (ours, theirs):
        one.close()


def test_sockets_in_the_file_system_are_left_to_its_permissions() -> None:
    newcomers = Newcomers(most=0)
    newcomers.add(5, b"ipc:///tmp/x")
    assert not newcomers.make_room()
