"""What a sender and a receiver need from a wire: a few verbs.

Knows frames as opaque bytes and peers as opaque names; knows no message and no state. A transport keeps the
order of frames between two living peers, may lose what was on its way when one dies, and then says so in
``lost``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, NewType, Protocol

import numpy as np
import zmq

from kv_transfer.transports.direct import Lent
from kv_transfer.wire import Body
from pagewire.guard import Refusals

Peer = NewType("Peer", bytes)
# At the sender a peer is the receiver's address; at the receiver, one connection of one sender.


LandingRoom = Callable[[int], memoryview]
"""Gives memory for a body of so many bytes, at most ``MAX_BODY_BYTES``, good until it is asked again."""


class Arrived(NamedTuple):
    peer: Peer
    head: bytes
    body: Body  # private memory: nobody else can change it, but see ``Transport.receive``


class Transport(Protocol):
    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        """Queue a frame. False, with nothing queued, if the peer is gone or takes no more for now."""
        ...

    def receive(self) -> Iterable[Arrived]:
        """Frames that are here now, oldest first, at most a bounded number. Does not block.

        To be read to the end. A frame's body is good until the next frame is taken.
        """
        ...

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        """Which of ``peers`` can no longer be reached and will send nothing more. Does not block."""
        ...

    def forget(self, peer: Peer) -> None:
        """Nothing is open with ``peer`` any more: what is held for a lost one may be dropped."""
        ...

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Sockets to poll for input while there is nothing to do. The list may change at each call."""
        ...

    def close(self) -> None: ...


class Dialer(Transport, Protocol):
    """The sender's end."""

    def room(self, peer: Peer, size: int) -> memoryview | None:
        """Memory for the body of the next frame to ``peer``, to be filled and given to ``send`` at once.

        None if there is none for now. Room that is not sent is given out again.
        """
        ...

    def direct(self, peer: Peer, size: int) -> Lent | None:
        """Where bodies of ``size`` bytes for ``peer`` are read to instead if they need not touch the host.

        What was begun there is given to ``send``, or dropped.
        """
        ...


class Listener(Transport, Protocol):
    """The receiver's end. ``address`` is what a sender dials: ports and names that were left open are
    filled in.
    """

    @property
    def address(self) -> str: ...

    @property
    def refusals(self) -> Refusals:
        """Connections that were not let in, since the start."""
        ...


def private_room(size: int) -> memoryview:
    """Memory for a body that goes inline."""
    return np.empty(size, np.uint8).data
