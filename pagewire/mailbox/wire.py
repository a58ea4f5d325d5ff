"""The sockets of a line: dialling a router, dialling again, hanging up.

Knows sockets; what is said over them is not known here.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import zmq

from pagewire.dialling import EVENTS, Dialling
from pagewire.mailbox.line import Line
from pagewire.mailbox.sockets import HANDSHAKE_MS, Peer, bounded, identity
from pagewire.messages import ROUTER
from pagewire.secret import apply_client


@dataclass(slots=True)
class Wire:
    """A line and what it runs over."""

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    dialling: Dialling
    line: Line = field(default_factory=Line)

    @property
    def address(self) -> str:
        return self.dialling.address

    def register(self, poller: zmq.Poller) -> None:
        """Wake when something comes; while a Hello is due, also when one can be sent: a new connection takes
        messages a moment after its handshake, or may do so."""
        poller.register(self.socket, zmq.POLLIN | (zmq.POLLOUT if self.line.greeting else 0))
        poller.register(self.monitor, zmq.POLLIN)

    def unregister(self, poller: zmq.Poller) -> None:
        for socket in (self.socket, self.monitor):
            poller.unregister(socket)


def dial(
    context: zmq.Context[zmq.Socket[bytes]], peer: Peer, side: str, secret: bytes | None, address: str
) -> Wire:
    """``peer`` dials ``address``, with the keys of a ``side``. Raises zmq.ZMQError if that is no address."""
    socket = context.socket(zmq.DEALER)
    bounded(socket)
    socket.setsockopt(zmq.IDENTITY, identity(peer))
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, HANDSHAKE_MS)  # the kernel's own tries get ever rarer
    apply_client(socket, secret, side, ROUTER)
    wire = Wire(socket, socket.get_monitor_socket(EVENTS), Dialling(address))
    try:
        socket.connect(address)
    except zmq.ZMQError:
        hang_up(wire)
        raise
    return wire


def dial_again(wire: Wire) -> None:
    with contextlib.suppress(zmq.ZMQError):  # it may have forgotten the address by itself
        wire.socket.disconnect(wire.address)
    wire.socket.connect(wire.address)


def hang_up(wire: Wire) -> None:
    wire.socket.disable_monitor()
    wire.monitor.close(linger=0)
    wire.socket.close(linger=200)
