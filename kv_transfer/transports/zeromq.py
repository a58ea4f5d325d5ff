"""ZeroMQ sockets as the handoff uses them: one bound ROUTER at a receiver, one DEALER a peer at a sender.

Knows sockets, peers and lists of byte parts; knows no frame. Everything has a limit: queue lengths, bytes a
part, parts a message, and how long a silent peer counts as alive (about ``DEAD_MS``; a closed connection is
seen at once).

A part list that starts with an empty part and goes on is the transport's own word to its other end; an
empty part alone is a probe, which says nothing: that it can be sent is the news.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from kv_transfer.transports.base import Peer
from kv_transfer.wire import MAX_BODY_BYTES, Buffer
from pagewire.errors import ConfigError
from pagewire.guard import Guard, Refusals
from pagewire.secret import apply_client, apply_server

MAX_PARTS = 3
SENDER, RECEIVER = "sender", "receiver"  # the sides of a connection, by which their keys differ
DEAD_MS = 2500
_BEAT_MS = 500
_QUEUE = 8192  # messages to one peer; bytes are bounded by credit
_UNREAD = 256  # messages of one peer that wait here; more wait in its own memory
_SOCKETS = 4096  # of one dialling end, three a peer; ZeroMQ's own limit is 1,023
_BATCH = 256  # messages that one receive takes
_PROBE = (b"",)
_CURVE_BYTES = 64  # more than encryption adds to a part

# Any of these and a link is of no more use: it never came up, or it went down.
_DOWN = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

Socket = zmq.Socket[bytes]


class Parts(NamedTuple):
    """One message: its parts without the peer's name, in memory that is ours alone."""

    peer: Peer
    parts: list[memoryview]  # empty if there were more than MAX_PARTS


class Router:
    """The bound end. A peer is one connection of one sender: when that reconnects, it is another peer."""

    def __init__(self, endpoint: str, secret: bytes | None) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        _bound(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._guard = apply_server(self._socket, secret, RECEIVER, (SENDER,))
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot listen on {endpoint}: {error.strerror}") from error
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def send(self, peer: Peer, parts: Sequence[Buffer]) -> bool:
        return self._try(peer, parts) is None

    def receive(self) -> list[Parts]:
        found = []
        for parts in _drain(self._socket, 1 + MAX_PARTS, self._guard):
            name, *rest = parts
            if len(parts) > 1 + MAX_PARTS or len(rest) != 1 or rest[0]:  # all but probes
                found.append(Parts(Peer(bytes(name)), rest if len(parts) <= 1 + MAX_PARTS else []))
        return found

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        return [peer for peer in peers if self._try(peer, _PROBE) == zmq.EHOSTUNREACH]

    @property
    def refusals(self) -> Refusals:
        """Connections that were not let in."""
        return Refusals() if self._guard is None else self._guard.refusals

    def sockets(self) -> list[Socket]:
        return [self._socket]

    def close(self) -> None:
        self._socket.close(linger=0)
        if self._guard is not None:
            self._guard.stop()
        self._context.term()

    def _try(self, peer: Peer, parts: Sequence[Buffer]) -> int | None:
        """Send without waiting. None, or the error number for a peer that is gone or full."""
        try:
            self._socket.send_multipart([peer, *parts], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return error.errno
        return None


@dataclass(slots=True, eq=False)
class _Link:
    """The connection to one receiver. It is used once: when it is down, another is made."""

    socket: Socket
    monitor: Socket
    down: bool = False

    def look(self) -> None:
        self.down = self.down or _went_down(self.monitor)

    def dead(self) -> bool:
        """True if it went down and all that came before was received."""
        self.look()
        return self.down and not self.socket.poll(0)

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)


class Dealers:
    """The dialling end: a link a peer, made at the first send. ``peer`` is the endpoint to connect to."""

    def __init__(self, secret: bytes | None) -> None:
        self._secret = secret
        self._context: zmq.Context[Socket] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, _SOCKETS)
        self._links: dict[Peer, _Link | None] = {}  # None: cannot even be dialled

    def send(self, peer: Peer, parts: Sequence[Buffer]) -> bool:
        if peer not in self._links:
            self._links[peer] = self._dial(peer.decode())
        link = self._links[peer]
        if link is None or link.down:
            return False
        try:
            link.socket.send_multipart(list(parts), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[Parts]:
        found: list[Parts] = []
        for peer, link in self._links.items():
            if link is None:
                continue
            link.look()
            for parts in _drain(link.socket, MAX_PARTS):
                if len(parts) != 1 or parts[0]:
                    found.append(Parts(peer, parts if len(parts) <= MAX_PARTS else []))
        return found

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        return [p for p in peers if p in self._links and ((link := self._links[p]) is None or link.dead())]

    def forget(self, peer: Peer) -> None:
        """Drop the link to ``peer``; the next send makes another."""
        if (link := self._links.pop(peer, None)) is not None:
            link.close()

    def sockets(self) -> list[Socket]:
        found = []
        for link in self._links.values():
            if link is not None and not link.down:
                found += [link.socket, link.monitor]
            elif link is not None and link.socket.poll(0):
                found.append(link.socket)  # what came before it went down is still unread
        return found

    def close(self) -> None:
        for peer in list(self._links):
            self.forget(peer)
        self._context.term()

    def _dial(self, endpoint: str) -> _Link | None:
        try:
            socket = self._context.socket(zmq.DEALER)
        except zmq.ZMQError:  # one more than this process may have
            return None
        _bound(socket)
        socket.setsockopt(zmq.IDENTITY, secrets.token_hex(8).encode())
        socket.setsockopt(zmq.CONNECT_TIMEOUT, DEAD_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        apply_client(socket, self._secret, SENDER, RECEIVER)
        link = _Link(socket, socket.get_monitor_socket(_DOWN))
        try:
            socket.connect(endpoint)
        except zmq.ZMQError:  # not an address, or no such host
            link.close()
            return None
        return link


def _bound(socket: Socket) -> None:
    """No queue, message or wait without a limit."""
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, _QUEUE),
        (zmq.RCVHWM, _UNREAD),
        (zmq.MAXMSGSIZE, MAX_BODY_BYTES + _CURVE_BYTES),
        (zmq.HANDSHAKE_IVL, DEAD_MS),
        (zmq.HEARTBEAT_IVL, _BEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, DEAD_MS - _BEAT_MS),
    ):
        socket.setsockopt(option, value)


def _drain(socket: Socket, most: int, guard: Guard | None = None) -> Iterator[list[memoryview]]:
    """Messages that are here now, each cut to ``most`` parts and one to show that there were more."""
    for _ in range(_BATCH):
        try:
            frame = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        if guard is not None:
            guard.met(frame)
        parts = [frame.buffer]
        while frame.more:
            frame = socket.recv(zmq.NOBLOCK, copy=False)
            if len(parts) <= most:
                parts.append(frame.buffer)
        yield parts


def _went_down(monitor: Socket) -> bool:
    down = False
    while monitor.poll(0):
        down |= bool(recv_monitor_message(monitor)["event"] & _DOWN)
    return down
