"""The receiver's end of links whose bodies are READ by NIXL: what is being read, and what may be looked at.

Each link has a ring of our own that its bodies are read to; a body is copied from there to memory that nobody
else knows before anybody looks at it. Frames of a link come out in the order in which they came in, whether
they wait for a READ or not. All that is known of a link is known here, so a NIXL process that ends, or has to
be ended since a READ does not, is replaced and told everything again. A link whose READs fail is broken: what
it carried is lost. Knows peers, links and bytes; knows no socket.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kv_transfer.transports import nixl_words as words
from kv_transfer.transports.base import Arrived, LandingRoom, Peer
from kv_transfer.transports.nixl_card import Card
from kv_transfer.transports.nixl_process import NixlProcess
from kv_transfer.transports.ring import NONCE_BYTES, RING_BYTES, Ref, RingWriter
from kv_transfer.transports.zeromq import Socket
from kv_transfer.wire import Buffer
from pagewire.errors import RemoteProtocolError

log = logging.getLogger("pagewire.handoff")

READ_S = 5.0  # a READ that takes longer takes for ever
_TRIES = 3  # NIXL processes that may end while they read for a link
_PAUSE_S = 10.0  # between the starts of processes that do not get ready
_MAX_LINKS = 256
_MAX_FRAMES = 4096  # of a link that wait
_MAX_INLINE_BYTES = 64 << 20  # of a link that wait with them


@dataclass(slots=True, eq=False)
class _Room:
    """Where in our ring something is read to."""

    view: memoryview
    ref: Ref
    done: bool = False


@dataclass(slots=True, eq=False)
class _Frame:
    head: bytes
    body: Buffer
    source: Ref | None = None  # where the body lies at the sender, if it does
    room: _Room | None = None

    @property
    def waits(self) -> bool:
        return self.source is not None and (self.room is None or not self.room.done)


@dataclass(slots=True, eq=False)
class _Link:
    peer: Peer
    number: int
    card: Card
    ring: RingWriter
    frames: deque[_Frame] = field(default_factory=deque)
    probe: _Room | None = None  # for the nonce: what is lent is proved when we have read it
    proved: bool = False
    tries: int = 0
    freed: int = 0  # up to where the sender has its memory back

    def claim(self, size: int) -> _Room | None:
        if (view := self.ring.claim(size)) is None:
            return None
        ref = self.ring.claimed(view)
        assert ref is not None
        self.ring.keep(ref)
        return _Room(view, ref)


class _Read(NamedTuple):
    link: _Link
    room: _Room
    began: float


class Reads:
    """Raises ConfigError if NIXL does not start."""

    def __init__(self, landing: LandingRoom, *, everywhere: bool, ring_bytes: int = RING_BYTES) -> None:
        self._landing = landing
        self._everywhere = everywhere
        self._ring_bytes = ring_bytes
        self._links: dict[Peer, _Link] = {}
        self._issued: dict[int, _Read] = {}  # by tag; also of links that are gone
        self._count = 0  # of links and tags
        self._process = NixlProcess(everywhere=everywhere)
        self._process.await_ready()
        self.broken: set[Peer] = set()
        self.answers: list[tuple[Peer, bool]] = []  # to who lent something: can it be read?

    @property
    def peers(self) -> set[Peer]:
        return {*self._links, *self.broken}

    def sockets(self) -> list[Socket]:
        return self._process.sockets

    # --- what comes from peers ------------------------------------------------------------------------------

    def meet(self, peer: Peer, word: bytes) -> None:
        """``peer`` lends something, once. It is answered when we know whether it can be read."""
        try:
            if peer in self.peers or len(self._links) >= _MAX_LINKS:
                raise RemoteProtocolError("a link too many")
            card = Card.unpack(word)
        except RemoteProtocolError:
            self.answers.append((peer, False))
            return
        link = self._links[peer] = _Link(peer, self._number(), card, RingWriter(self._ring_bytes))
        if self._process.ready:
            self._begin(link)

    def lent(self, peer: Peer, head: bytes, word: Buffer) -> bool:
        """A frame whose body lies at ``peer``. False if none can lie there."""
        link = self._links.get(peer)
        try:
            ref = Ref.unpack(word)
        except RemoteProtocolError:
            return False
        if link is None or not link.proved or not link.card.has(ref):
            return False
        self._append(link, _Frame(head, b"", ref))
        return True

    def behind(self, peer: Peer, head: bytes, body: Buffer) -> bool:
        """A frame with its body, if others are before it. False if it need not wait."""
        link = self._links.get(peer)
        if link is None or not link.frames:
            return False
        self._append(link, _Frame(head, body))
        return True

    def forget(self, peer: Peer) -> None:
        self.broken.discard(peer)
        self._drop(peer)

    # --- what goes on ---------------------------------------------------------------------------------------

    def arrived(self) -> Iterator[Arrived]:
        """Frames whose turn it is."""
        for link in list(self._links.values()):
            while link.frames and not link.frames[0].waits:
                frame = link.frames.popleft()
                yield Arrived(link.peer, frame.head, self._body(frame))
                if frame.source is not None and frame.room is not None:
                    link.ring.release(frame.room.ref.end)
                    link.freed = frame.source.end
            self._read_on(link)

    def freed(self) -> Iterator[tuple[Peer, int]]:
        """Up to which position senders have their memory back, where that is news."""
        for link in self._links.values():
            if link.freed:
                yield link.peer, link.freed
                link.freed = 0

    def mind(self) -> None:
        """Hear the process, and replace it if it has ended or stands."""
        for word in self._process.hear():
            match word.kind, word.numbers:
                case words.READY, ():
                    for link in self._links.values():
                        self._begin(link)
                case ((words.DONE | words.FAILED), (tag,)):
                    self._ended(self._issued.pop(tag), good=word.kind == words.DONE)
        oldest = min((read.began for read in self._issued.values()), default=time.monotonic())
        if self._process.ended or time.monotonic() - oldest > READ_S:
            self._replace()

    def close(self) -> None:
        for peer in list(self._links):
            self._drop(peer)
        self._process.close()

    # --- links ----------------------------------------------------------------------------------------------

    def _begin(self, link: _Link) -> None:
        """Tell the process of it, and what is to be read for it."""
        self._process.say(words.LEND, link.number, blob=link.ring.offer)
        self._process.say(words.MEET, link.number, blob=link.card.metadata)
        if not link.proved:
            link.probe = link.probe or link.claim(NONCE_BYTES)
            assert link.probe is not None, "the ring is empty"
            self._read(link, link.probe, 0)
        for frame in link.frames:
            if frame.source is not None and frame.room is not None and not frame.room.done:
                self._read(link, frame.room, frame.source.offset)
        self._read_on(link)

    def _append(self, link: _Link, frame: _Frame) -> None:
        link.frames.append(frame)
        if len(link.frames) > _MAX_FRAMES or sum(len(f.body) for f in link.frames) > _MAX_INLINE_BYTES:
            self._give_up(link, "too much waits")
        else:
            self._read_on(link)

    def _read_on(self, link: _Link) -> None:
        """Begin to read, as far as our ring goes."""
        if not self._process.ready or self._links.get(link.peer) is not link:
            return
        for frame in link.frames:
            if frame.source is not None and frame.room is None:
                if (room := link.claim(frame.source.size)) is None:
                    return
                frame.room = room
                self._read(link, room, frame.source.offset)

    def _read(self, link: _Link, room: _Room, offset: int) -> None:
        tag = self._number()
        self._issued[tag] = _Read(link, room, time.monotonic())
        at, size = room.ref.offset, room.ref.size
        self._process.say(words.READ, link.number, tag, at, link.card.address + offset, size)

    def _ended(self, read: _Read, *, good: bool) -> None:
        link = read.link
        if self._links.get(link.peer) is not link:
            return
        if not good:
            self._give_up(link, "a READ failed")
            return
        link.tries, read.room.done = 0, True
        if read.room is link.probe and not link.proved:
            link.proved = bytes(read.room.view) == link.card.offer.nonce
            link.ring.release(read.room.ref.end)
            if link.proved:
                self.answers.append((link.peer, True))
            else:
                self._give_up(link, "other bytes than were lent")

    def _body(self, frame: _Frame) -> Buffer:
        if frame.room is None:
            return frame.body
        body = self._landing(frame.room.ref.size)
        body[:] = frame.room.view
        return body

    def _give_up(self, link: _Link, why: str) -> None:
        """What cannot be read from the start goes another way; later it is too late for that."""
        what = "is lost" if link.proved else "comes through the socket"
        log.warning("NIXL: %s: a sender's KV %s", why, what)
        if link.proved:
            self.broken.add(link.peer)
        self.answers.append((link.peer, False))
        self._drop(link.peer)

    def _drop(self, peer: Peer) -> None:
        if (link := self._links.pop(peer, None)) is not None:
            if self._process.ready:
                self._process.say(words.FORGET, link.number)
            link.ring.close()

    # --- the process ----------------------------------------------------------------------------------------

    def _replace(self) -> None:
        """It may be a link's fault: one that has seen several of them end is given up."""
        if not self._process.ready and self._process.age < _PAUSE_S:
            return
        log.warning("NIXL: process %d %s", self._process.pid, "ended" if self._process.ended else "stands")
        self._process.close()
        self._process = NixlProcess(everywhere=self._everywhere)
        reading = {read.link for read in self._issued.values()}
        self._issued.clear()
        for link in reading:
            link.tries += 1
            if link.tries == _TRIES and self._links.get(link.peer) is link:
                self._give_up(link, f"{_TRIES} processes ended while they read")

    def _number(self) -> int:
        self._count += 1
        return self._count
