"""What the sockets of both ends have in common: limits on queues, messages and waits, and names of peers.

Knows sockets; knows no message.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import zmq
import zmq.asyncio

from pagewire.codec import MAX_MESSAGE_BYTES
from pagewire.messages import Epoch, NodeId

HANDSHAKE_MS = 2500
_QUEUE = 10_000  # messages held for a peer that does not read; beyond it, sends report failure


class Peer(NamedTuple):
    """A node in one of its lives."""

    node: NodeId
    epoch: Epoch


def identity(peer: Peer) -> bytes:
    """What the router's socket calls ``peer``."""
    return f"{peer.node}/{peer.epoch}".encode()


def bounded(socket: zmq.Socket[Any] | zmq.asyncio.Socket) -> None:
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, _QUEUE),
        (zmq.RCVHWM, _QUEUE),
        (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        (zmq.HEARTBEAT_IVL, 1000),
        (zmq.HEARTBEAT_TIMEOUT, 3000),
    ):
        socket.setsockopt(option, value)


def pair(context: zmq.Context[Any], name: str, *, bind: bool) -> zmq.Socket[bytes]:
    """One end of a pair between two threads."""
    socket: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.SNDHWM, _QUEUE)
    socket.setsockopt(zmq.RCVHWM, _QUEUE)
    if bind:
        socket.bind(name)
    else:
        socket.connect(name)
    return socket


def try_send(socket: zmq.Socket[bytes], data: bytes) -> bool:
    """Queue ``data``, if there is somebody to send it to and room for it."""
    with contextlib.suppress(zmq.Again):
        socket.send(data, zmq.NOBLOCK)
        return True
    return False
