"""Picks a wire by the scheme of an address, once, at the door. Knows schemes; knows no frame."""

from __future__ import annotations

from collections.abc import Collection

from kv_transfer.transports.base import Arrived, Dialer, LandingRoom, Listener, Peer
from kv_transfer.transports.direct import Borrower, Lender, Lent
from kv_transfer.transports.nixl import NixlListener
from kv_transfer.transports.nixl_dialer import NixlDialer
from kv_transfer.transports.shm import ShmDialer, ShmListener
from kv_transfer.transports.tcp import TcpDialer, TcpListener
from kv_transfer.transports.zeromq import Socket
from kv_transfer.wire import Body
from pagewire.errors import ConfigError


def open_receiver(
    address: str,
    secret: bytes | None = None,
    landing: LandingRoom | None = None,
    borrower: Borrower | None = None,
    *,
    trusted: bool = False,
) -> Listener:
    """Listen at ``tcp://host:port`` or ``nixl://host:port`` (port ``*``: a free one), ``shm:///path`` or
    ``shm://*``. Raises ConfigError.

    ``trusted``: all that can reach this host may be trusted, so that NIXL may listen beyond loopback. A wire
    that copies bodies itself copies them into what ``landing`` gives, such as memory that a device reads by
    itself. Others bring their own memory. What a sender's device lends to us, ``borrower`` maps.
    """
    if address.startswith("tcp://"):
        return TcpListener(address, secret)
    if address.startswith("shm://"):
        return ShmListener(address, secret, landing, borrower)
    if address.startswith("nixl://"):
        return NixlListener(address, secret, landing, trusted=trusted)
    raise ConfigError(f"{address} is not an address of the handoff: give tcp://host:port or shm:///path")


def open_sender(
    secret: bytes | None = None, lender: Lender | None = None, *, trusted: bool = False
) -> Dialer:
    """A wire to any receiver, whatever the scheme of its address. What ``lender`` has goes from device to
    device where the receiver can map it. ``trusted``: as for ``open_receiver``; without it, what a receiver
    beyond loopback would READ by NIXL goes through the socket.
    """
    nixl = NixlDialer(secret, trusted=trusted)
    return ByScheme({b"tcp": TcpDialer(secret), b"shm": ShmDialer(secret, lender=lender), b"nixl": nixl})


class ByScheme:
    """Several wires as one. A peer whose scheme has no wire is lost from the start."""

    def __init__(self, wires: dict[bytes, Dialer]) -> None:
        self._wires = wires

    def room(self, peer: Peer, size: int) -> memoryview | None:
        wire = self._wires.get(_scheme(peer))
        return None if wire is None else wire.room(peer, size)

    def direct(self, peer: Peer, size: int) -> Lent | None:
        wire = self._wires.get(_scheme(peer))
        return None if wire is None else wire.direct(peer, size)

    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        wire = self._wires.get(_scheme(peer))
        return wire is not None and wire.send(peer, head, body)

    def receive(self) -> list[Arrived]:
        return [arrived for wire in self._wires.values() for arrived in wire.receive()]

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        gone = [peer for peer in peers if _scheme(peer) not in self._wires]
        for scheme, wire in self._wires.items():
            gone += wire.lost([peer for peer in peers if _scheme(peer) == scheme])
        return gone

    def forget(self, peer: Peer) -> None:
        if (wire := self._wires.get(_scheme(peer))) is not None:
            wire.forget(peer)

    def sockets(self) -> list[Socket]:
        return [socket for wire in self._wires.values() for socket in wire.sockets()]

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()


def _scheme(peer: Peer) -> bytes:
    return peer.partition(b"://")[0]
