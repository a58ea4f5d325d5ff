"""The sender's end of NIXL links: what is lent to each receiver, and the process that lends it.

A sender's NIXL process holds what is lent, and takes part in what others read only while there is something
to read. If it ends, what it lent is lost, and the next link starts another. Where it cannot be had,
bodies go through the socket. Knows frames as opaque bytes; the words are listed in ``nixl``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from kv_transfer.transports import nixl_words as words
from kv_transfer.transports.base import Arrived, Peer, private_room
from kv_transfer.transports.nixl_card import FREE, READ, UNREAD, Card, swap
from kv_transfer.transports.nixl_process import NixlProcess, has_nixl
from kv_transfer.transports.ring import RING_BYTES, Offer, RingWriter
from kv_transfer.transports.shm import INLINE_BYTES
from kv_transfer.transports.tcp import arrived, inline
from kv_transfer.transports.zeromq import Dealers, Parts, Socket
from kv_transfer.wire import Body, Buffer
from pagewire.errors import ConfigError
from pagewire.private import is_local

log = logging.getLogger("pagewire.handoff")


@dataclass(slots=True, eq=False)
class _Link:
    """What is lent to one receiver."""

    number: int
    ring: RingWriter
    offered: bool = False
    read: bool = False  # it can be read
    unread: bool = False  # it cannot
    broken: bool = False  # it could, and something was lost

    def fail(self) -> None:
        self.unread, self.broken, self.read = True, self.broken or self.read, False

    @property
    def wants_progress(self) -> bool:
        return self.offered and not self.unread and (not self.read or bool(self.ring.used))


class NixlDialer:
    """The sender's end, for any number of receivers. NIXL is started for the first one that it can serve."""

    def __init__(
        self, secret: bytes | None = None, *, trusted: bool = False, ring_bytes: int = RING_BYTES
    ) -> None:
        self._dealers = Dealers(secret)
        self._trusted = trusted
        self._ring_bytes = ring_bytes
        self._process: NixlProcess | None = None
        self._failed = False  # it did not even start: it is not tried again
        self._awake = False
        self._links: dict[Peer, _Link] = {}
        self._count = 0

    def room(self, peer: Peer, size: int) -> memoryview | None:
        link = self._links.get(peer)
        if link is None or not link.read or size < INLINE_BYTES:
            return private_room(size)
        return link.ring.claim(size)

    def direct(self, peer: Peer, size: int) -> None:
        return None

    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        assert isinstance(body, Buffer), "nobody reads to a device here"
        link = self._links.get(peer) or self._lend(peer)
        if link is None or (ref := link.ring.claimed(body)) is None:
            return (link is None or not link.broken) and self._dealers.send(swap(peer), inline(head, body))
        if link.broken or not self._dealers.send(swap(peer), (head, b"", ref.pack())):
            return False
        link.ring.keep(ref)
        self._wake()
        return True

    def receive(self) -> list[Arrived]:
        self._mind()
        found = []
        for message in self._dealers.receive():
            peer = swap(message.peer)
            match message.parts:
                case [mark, word] if not mark:
                    self._told(peer, bytes(word))
                case _:
                    found.append(arrived(Parts(peer, message.parts)))
        self._wake()
        return found

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        broken = [peer for peer in peers if (link := self._links.get(peer)) is not None and link.broken]
        gone = self._dealers.lost({swap(peer) for peer in peers})
        return [*broken, *(swap(peer) for peer in gone if swap(peer) not in broken)]

    def forget(self, peer: Peer) -> None:
        self._dealers.forget(swap(peer))
        if (link := self._links.pop(peer, None)) is not None:
            self._say(words.FORGET, link.number)
            link.ring.close()
        self._wake()

    def sockets(self) -> list[Socket]:
        return self._dealers.sockets() + ([] if self._process is None else self._process.sockets)

    def close(self) -> None:
        for peer in list(self._links):
            self.forget(peer)
        if self._process is not None:
            self._process.close()
        self._dealers.close()

    def _lend(self, peer: Peer) -> _Link | None:
        """A link for ``peer``; None if it is to go without."""
        if self._failed or not (self._trusted or is_local(peer.decode())):
            return None
        if not has_nixl():
            self._fail("it is not installed: pip install 'pagewire[nixl]'")
            return None
        if self._process is None and not self._start():
            return None
        self._count += 1
        link = self._links[peer] = _Link(self._count, RingWriter(self._ring_bytes))
        self._say(words.LEND, link.number, blob=link.ring.offer)
        return link

    def _say(self, kind: bytes, *numbers: int, blob: bytes = b"") -> None:
        """Nothing, before it is ready: then it is told all."""
        if self._process is not None and self._process.ready:
            self._process.say(kind, *numbers, blob=blob)

    def _mind(self) -> None:
        """Hear the process, and notice its end."""
        if self._process is None:
            return
        for word in self._process.hear():
            match word.kind, word.numbers:
                case words.READY, ():
                    for link in self._links.values():
                        self._say(words.LEND, link.number, blob=link.ring.offer)
                case words.LENT, (number, address):
                    self._offer(number, address, word.blob)
        if self._process.ended:
            self._fail("it did not start") if not self._process.ready else self._end()

    def _offer(self, number: int, address: int, metadata: bytes) -> None:
        for peer, link in self._links.items():
            if link.number == number:
                card = Card(address, Offer.unpack(link.ring.offer), metadata)
                link.offered = self._dealers.send(swap(peer), (b"", card.pack()))

    def _told(self, peer: Peer, word: bytes) -> None:
        if (link := self._links.get(peer)) is None:
            return
        if word == READ:
            link.read = True
            log.info("KV goes by NIXL")
        elif word.startswith(FREE):
            link.ring.release(int.from_bytes(word.removeprefix(FREE)[:8], "little"))
        elif word == UNREAD:
            link.fail()
            self._say(words.FORGET, link.number)

    def _wake(self) -> None:
        """The process takes part in what others read only while it is told to."""
        awake = any(link.wants_progress for link in self._links.values())
        if self._process is not None and self._process.ready and awake != self._awake:
            self._awake = awake
            self._say(words.AWAKE, int(awake))

    def _start(self) -> bool:
        try:
            self._process = NixlProcess(everywhere=self._trusted)
        except ConfigError as error:
            self._fail(str(error))
        return not self._failed

    def _fail(self, why: str) -> None:
        log.warning("KV goes through the socket, and not by NIXL: %s", why)
        self._failed = True
        self._end()

    def _end(self) -> None:
        """What it lent is gone with it. Links that it was to serve, and nobody knows of, get another."""
        for link in self._links.values():
            if link.offered or self._failed:
                link.fail()
        self._awake = False
        if self._process is not None:
            self._process.close()
            self._process = None
        if any(not link.unread for link in self._links.values()):
            self._start()
