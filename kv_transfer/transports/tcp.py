"""Frames over ZeroMQ and TCP, between any two hosts: ``tcp://host:port``. Bodies go inline.

Beyond loopback only with the cluster secret, which makes the connection CURVE: see ``pagewire.secret``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kv_transfer.transports.base import Arrived, Peer, private_room
from kv_transfer.transports.zeromq import Dealers, Parts, Router, Socket
from kv_transfer.wire import Body, Buffer
from pagewire.guard import Refusals
from pagewire.secret import require_for


class TcpListener:
    """The receiver's end. ``address`` with port ``*`` takes a free one. Raises ConfigError."""

    def __init__(self, address: str, secret: bytes | None = None) -> None:
        require_for(address, secret)
        self._router = Router(address, secret)

    @property
    def address(self) -> str:
        return self._router.endpoint

    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        return self._router.send(peer, inline(head, body))

    def receive(self) -> list[Arrived]:
        return [arrived(message) for message in self._router.receive()]

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        return self._router.lost(peers)

    def forget(self, peer: Peer) -> None:
        pass  # ZeroMQ has dropped what it held

    @property
    def refusals(self) -> Refusals:
        return self._router.refusals

    def sockets(self) -> list[Socket]:
        return self._router.sockets()

    def close(self) -> None:
        self._router.close()


class TcpDialer:
    """The sender's end, for any number of receivers. Holds bodies, uncopied, until they are sent."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._dealers = Dealers(secret)

    def room(self, peer: Peer, size: int) -> memoryview | None:
        return private_room(size)

    def direct(self, peer: Peer, size: int) -> None:
        return None

    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        return self._dealers.send(peer, inline(head, body))

    def receive(self) -> list[Arrived]:
        return [arrived(message) for message in self._dealers.receive()]

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        return self._dealers.lost(peers)

    def forget(self, peer: Peer) -> None:
        self._dealers.forget(peer)

    def sockets(self) -> list[Socket]:
        return self._dealers.sockets()

    def close(self) -> None:
        self._dealers.close()


def inline(head: bytes, body: Body) -> Sequence[Buffer]:
    assert isinstance(body, Buffer), "what lies on a device does not go through a socket"
    return (head, body) if len(body) else (head,)


def arrived(message: Parts) -> Arrived:
    """A frame of one or two parts. Anything else becomes an empty frame, which nobody can decode."""
    match message.parts:
        case [head]:
            return Arrived(message.peer, bytes(head), b"")
        case [head, body] if head:
            return Arrived(message.peer, bytes(head), body)
        case _:
            return Arrived(message.peer, b"", b"")
