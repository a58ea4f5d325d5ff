"""All lines of one node: dialled, polled together, hung up on.

Knows addresses and sockets; what is said over them is not known here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import zmq

from pagewire.audit import clean
from pagewire.mailbox.line import GIVEN_UP_AFTER_S
from pagewire.mailbox.sockets import Peer
from pagewire.mailbox.wire import Wire, dial, dial_again, hang_up
from pagewire.messages import NodeId

log = logging.getLogger("pagewire.mailbox")


class Wires:
    """``peer`` dials routers with the keys of a ``side``. For one thread."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], peer: Peer, side: str, secret: bytes | None
    ) -> None:
        self._context, self._peer, self._side, self._secret = context, peer, side, secret
        self._poller = zmq.Poller()
        self._by_address: dict[str, Wire] = {}

    def __iter__(self) -> Iterator[Wire]:
        return iter(self._by_address.values())

    def listen(self, socket: zmq.Socket[bytes]) -> None:
        """Wake for ``socket``, too."""
        self._poller.register(socket, zmq.POLLIN)

    def poll(self, seconds: float) -> dict[Any, int]:
        return dict(self._poller.poll(max(1, int(seconds * 1000))))

    def dial(self, address: str) -> None:
        """Raises zmq.ZMQError if that is no address."""
        wire = dial(self._context, self._peer, self._side, self._secret, address)
        wire.register(self._poller)
        self._by_address[address] = wire

    def look_again(self, wire: Wire) -> None:
        """What is to wake us for ``wire`` has changed."""
        wire.register(self._poller)

    def dial_abandoned(self, now: float) -> None:
        for wire in self:
            if wire.dialling.abandoned(now):
                dial_again(wire)

    def change(self, wanted: tuple[str, ...]) -> list[NodeId]:
        """Hang up on those that are not wanted any more, and dial those that are new. The routers lost."""
        lost = []
        for address in [address for address in self._by_address if address not in wanted]:
            wire = self._by_address.pop(address)
            if (router := wire.line.lost()) is not None:
                lost.append(router)
            wire.unregister(self._poller)
            hang_up(wire)
        for address in wanted:
            if address not in self._by_address:
                try:
                    self.dial(address)
                except zmq.ZMQError as error:
                    log.warning("cannot dial %s: %s", clean(address), error.strerror)
        return lost

    def close(self) -> None:
        for wire in self:
            hang_up(wire)

    @property
    def up(self) -> frozenset[str]:
        """The addresses whose router is joined."""
        return frozenset(address for address, wire in self._by_address.items() if wire.line.joined)

    @property
    def refusals(self) -> list[str]:
        """Why we are refused, by each; "" for one that does not refuse us."""
        return [wire.line.refused for wire in self]

    @property
    def silent_at(self) -> float:
        """When the next router would be given up for its silence."""
        lines = (wire.line for wire in self)
        return min((line.heard + GIVEN_UP_AFTER_S for line in lines if line.joined), default=float("inf"))
