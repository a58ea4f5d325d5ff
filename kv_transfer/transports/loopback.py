"""Frames within one process, in order and at once: the wire for tests, a transport like the others.

Knows frames as opaque bytes. Faults are added by overriding ``Loopback.carry``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from kv_transfer.transports.base import Arrived, Peer, private_room
from kv_transfer.transports.zeromq import Socket
from kv_transfer.wire import Body, Buffer
from pagewire.guard import Refusals


class Loopback:
    """A network of named ends."""

    def __init__(self) -> None:
        self._ends: dict[Peer, LoopbackEnd] = {}

    def end(self, name: str) -> LoopbackEnd:
        """Join the network as ``name``; a receiver's address, or any other name for a sender."""
        peer = Peer(name.encode())
        assert peer not in self._ends, f"{name} is taken"
        self._ends[peer] = LoopbackEnd(self, peer)
        return self._ends[peer]

    def knows(self, peer: Peer) -> bool:
        return peer in self._ends

    def carry(self, target: Peer, frame: Arrived) -> None:
        """Bring ``frame`` to ``target``. Override to lose, repeat, delay or damage it, then call
        ``deliver``.
        """
        self.deliver(target, frame)

    def deliver(self, target: Peer, frame: Arrived) -> None:
        if target in self._ends:
            self._ends[target].inbox.append(frame)

    def leave(self, peer: Peer) -> None:
        self._ends.pop(peer, None)


class LoopbackEnd:
    """One end: a Dialer and a Listener."""

    def __init__(self, network: Loopback, name: Peer) -> None:
        self._network = network
        self._name = name
        self.inbox: deque[Arrived] = deque()

    @property
    def address(self) -> str:
        return self._name.decode()

    @property
    def refusals(self) -> Refusals:
        return Refusals()

    def room(self, peer: Peer, size: int) -> memoryview | None:
        return private_room(size)

    def direct(self, peer: Peer, size: int) -> None:
        return None

    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        assert isinstance(body, Buffer), "no device here"
        if not self._network.knows(peer):
            return False
        self._network.carry(peer, Arrived(self._name, head, bytes(body)))
        return True

    def receive(self) -> list[Arrived]:
        return [self.inbox.popleft() for _ in range(len(self.inbox))]

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        return [peer for peer in peers if not self._network.knows(peer)]

    def forget(self, peer: Peer) -> None:
        pass

    def sockets(self) -> list[Socket]:
        return []

    def close(self) -> None:
        self._network.leave(self._name)
