"""Frames between two hosts whose bodies are READ by NIXL: RDMA, NVLink or whatever else its UCX finds.

``nixl://host:port`` is a socket as that of ``tcp://``, and all frames but large bodies go through it: so who
is at the other end is proved there, and what memory is lent is told there only. A sender (``nixl_dialer``)
puts bodies into a ring that it lends to one receiver, whose NIXL process READs them (``nixl_reads``); nobody
writes to anybody. Until the receiver has read a nonce there, and where that cannot be done, bodies go through
the socket.

    sender -> receiver   head, "", ref        a frame whose body lies in the ring
                         head[, body]         a frame
                         "", card             what is lent: see nixl_card
    receiver -> sender   head
                         "", "read"           bodies may go into the ring
                         "", "free" + end     room is free again, up to there
                         "", "unread"         what is lent cannot be read, or no longer

What NIXL moves is neither encrypted nor authenticated. Knows frames as opaque bytes; this is the receiver's
end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kv_transfer.transports.base import Arrived, LandingRoom, Peer
from kv_transfer.transports.nixl_card import CARD, FREE, READ, UNREAD, swap
from kv_transfer.transports.nixl_process import require_nixl
from kv_transfer.transports.nixl_reads import Reads
from kv_transfer.transports.ring import RING_BYTES
from kv_transfer.transports.shm import same_memory
from kv_transfer.transports.tcp import arrived, inline
from kv_transfer.transports.zeromq import Parts, Router, Socket
from kv_transfer.wire import Body, Buffer
from pagewire.errors import ConfigError
from pagewire.guard import Refusals
from pagewire.private import is_local
from pagewire.secret import require_for


def check_nixl(address: str, *, trusted: bool) -> None:
    """Raises ConfigError if nobody may listen at ``address``."""
    require_nixl()
    if not trusted and not is_local(address):
        raise ConfigError(
            f"{address}: NIXL neither encrypts nor authenticates what it moves: give --trusted-network if "
            "all that can reach this host may be trusted, or tcp:// in its place"
        )


class NixlListener:
    """The receiver's end. ``trusted``: all that can reach this host may be. Raises ConfigError."""

    def __init__(
        self,
        address: str,
        secret: bytes | None = None,
        landing: LandingRoom | None = None,
        *,
        trusted: bool = False,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        check_nixl(address, trusted=trusted)
        require_for(address, secret)
        endpoint = swap(Peer(address.encode())).decode()
        self._router = Router(endpoint, secret)
        try:
            self._reads = Reads(
                landing or same_memory(), everywhere=not is_local(address), ring_bytes=ring_bytes
            )
        except ConfigError:
            self._router.close()
            raise

    @property
    def address(self) -> str:
        return swap(Peer(self._router.endpoint.encode())).decode()

    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        return peer not in self._reads.broken and self._router.send(peer, inline(head, body))

    def receive(self) -> Iterator[Arrived]:
        self._reads.mind()
        for message in self._router.receive():
            if message.peer not in self._reads.broken:
                yield from self._take(message)
        yield from self._reads.arrived()
        for peer, end in self._reads.freed():
            self._router.send(peer, (b"", FREE + end.to_bytes(8, "little")))
        self._answer()

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        self._reads.mind()
        self._answer()
        broken = [peer for peer in peers if peer in self._reads.broken]
        gone = self._router.lost({*peers, *self._reads.peers})
        for peer in gone:
            self._reads.forget(peer)
        return [*broken, *(peer for peer in gone if peer in peers and peer not in broken)]

    def forget(self, peer: Peer) -> None:
        self._reads.forget(peer)

    @property
    def refusals(self) -> Refusals:
        return self._router.refusals

    def sockets(self) -> list[Socket]:
        return [*self._router.sockets(), *self._reads.sockets()]

    def close(self) -> None:
        self._reads.close()
        self._router.close()

    def _take(self, message: Parts) -> Iterator[Arrived]:
        match message.parts:
            case [mark, word] if not mark:
                if bytes(word[: len(CARD)]) == CARD:
                    self._reads.meet(message.peer, bytes(word))
            case [head, mark, word] if head and not mark:
                if not self._reads.lent(message.peer, bytes(head), word):
                    yield Arrived(message.peer, bytes(head), b"")  # with which no head agrees
            case _:
                frame = arrived(message)
                assert isinstance(frame.body, Buffer)
                if not self._reads.behind(frame.peer, frame.head, frame.body):
                    yield frame

    def _answer(self) -> None:
        for peer, good in self._reads.answers:
            self._router.send(peer, (b"", READ if good else UNREAD))
        self._reads.answers.clear()
