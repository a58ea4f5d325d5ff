"""Frames between two processes of one host: heads over a ZeroMQ ipc socket, bodies through shared memory.

``shm:///path/to.sock``, or ``shm://*`` for a private folder of our own. The sender owns a ring for each
receiver it talks to, and offers it when the link is made; bodies are written straight into it. The receiver
copies a body out before anybody looks at it, and hands the room back. Where the ring cannot be mapped
(another user, another pid namespace) or a body is small, bodies go inline. Where both nodes have a device,
and the receiver's can map memory of the sender's, bodies stay on the devices: see ``direct``. Knows frames as
opaque bytes.

    sender -> receiver   head, "", ref            a frame whose body lies in the ring
                         head, "device", ref      a frame whose body lies in a block of the device's
                         head[, body]             a frame
                         "", "offer" + offer
                         "", "lend-device" + offer
    receiver -> sender   head
                         "", "map"                bodies may go through the ring
                         "", "free" + end         room is free again, up to there
                         "", "map-device"         bodies may stay on the device
                         "", "took-device" + ...  these blocks are free again
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from kv_transfer.transports import direct
from kv_transfer.transports.base import Arrived, LandingRoom, Peer, private_room
from kv_transfer.transports.borrowed import Borrowed
from kv_transfer.transports.direct import Borrower, DirectCopy, Lender, Lent, LentBlocks
from kv_transfer.transports.folder import private_folder
from kv_transfer.transports.ring import RING_BYTES, Ref, RingReader, RingWriter
from kv_transfer.transports.tcp import arrived, inline
from kv_transfer.transports.zeromq import Dealers, Parts, Router, Socket
from kv_transfer.wire import MAX_BODY_BYTES, Body, Buffer
from pagewire.errors import ConfigError, RemoteProtocolError
from pagewire.guard import Refusals

log = logging.getLogger("pagewire.handoff")

SCHEME = "shm://"
INLINE_BYTES = 16 << 10  # below this a second part is cheaper than the ring
_MAX_RINGS = 256
_OFFER, _MAP, _FREE = b"offer", b"map", b"free"


class ShmListener:
    """The receiver's end. Bodies from rings are copied into what ``landing`` gives, each before the next is
    looked at; those on a sender's device are brought here by ``borrower``. Raises ConfigError.
    """

    def __init__(
        self,
        address: str,
        secret: bytes | None = None,
        landing: LandingRoom | None = None,
        borrower: Borrower | None = None,
    ) -> None:
        self._folder: Path | None = None
        path = address.removeprefix(SCHEME)
        if path == "*":
            self._folder = private_folder()
            path = str(self._folder / "kv.sock")
        self._path = Path(path)
        if not self._path.is_absolute() or len(os.fsencode(path)) > 100:
            raise ConfigError(f"{address} needs an absolute path of at most 100 bytes")
        try:
            self._router = Router(f"ipc://{path}", secret)
        except ConfigError:
            self._tidy()
            raise
        self._path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        self._rings: dict[Peer, RingReader] = {}
        self._landing = landing or same_memory()
        self._borrowed = Borrowed(borrower)

    @property
    def address(self) -> str:
        return f"{SCHEME}{self._path}"

    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        return self._router.send(peer, inline(head, body))

    def receive(self) -> Iterator[Arrived]:
        free: dict[Peer, int] = {}
        for message, brought in self._borrowed.ahead(self._router.receive()):
            match message.parts:
                case [mark, word] if not mark:
                    self._told(message.peer, bytes(word))
                case [head, mark, word] if head and not mark:
                    body, end = self._copy(message.peer, word)
                    free[message.peer] = max(end, free.get(message.peer, 0))
                    yield Arrived(message.peer, bytes(head), body)
                case [head, mark, word] if head and mark == direct.MARK:
                    yield Arrived(message.peer, bytes(head), b"" if brought is None else brought)
                    if brought is not None:
                        brought.wait()  # a frame that has no place in its transfer was not checked
                case _:
                    yield arrived(message)
        for peer, end in free.items():
            self._router.send(peer, (b"", _FREE + end.to_bytes(8, "little")))
        self._borrowed.give_back(lambda peer, blocks: self._router.send(peer, (b"", direct.TOOK + blocks)))

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        gone = self._router.lost({*peers, *self._rings, *self._borrowed.peers})
        for peer in gone:
            self.forget(peer)
        return [peer for peer in gone if peer in peers]

    def forget(self, peer: Peer) -> None:
        if (ring := self._rings.pop(peer, None)) is not None:
            ring.close()
        self._borrowed.forget(peer)

    @property
    def refusals(self) -> Refusals:
        return self._router.refusals

    def sockets(self) -> list[Socket]:
        return self._router.sockets()

    def close(self) -> None:
        for peer in {*self._rings, *self._borrowed.peers}:
            self.forget(peer)
        self._router.close()
        self._tidy()

    def _tidy(self) -> None:
        self._path.unlink(missing_ok=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _told(self, peer: Peer, word: bytes) -> None:
        """A word of the other end's transport. A ring that cannot be mapped is not answered: bodies stay
        inline.
        """
        if word.startswith(_OFFER) and peer not in self._rings and len(self._rings) < _MAX_RINGS:
            with contextlib.suppress(RemoteProtocolError):
                self._rings[peer] = RingReader(word.removeprefix(_OFFER))
                self._router.send(peer, (b"", _MAP))
        elif word.startswith(direct.OFFER) and self._borrowed.map(peer, word.removeprefix(direct.OFFER)):
            self._router.send(peer, (b"", direct.MAP))

    def _copy(self, peer: Peer, word: Buffer) -> tuple[Buffer, int]:
        """The body and the position behind it; an empty body, which no head agrees with, if there is none."""
        try:
            ref = Ref.unpack(word)
            if peer in self._rings and 0 < ref.size <= MAX_BODY_BYTES:
                return self._rings[peer].copy(ref, self._landing(ref.size)), ref.end
        except RemoteProtocolError:
            pass
        return b"", 0


@dataclass(slots=True, eq=False)
class _Shared:
    """A link's ring at the sender."""

    ring: RingWriter
    lent: Lent | None
    mapped: bool = False


class ShmDialer:
    """The sender's end, for any number of receivers on this host."""

    def __init__(
        self, secret: bytes | None = None, ring_bytes: int = RING_BYTES, lender: Lender | None = None
    ) -> None:
        self._dealers = Dealers(secret)
        self._ring_bytes = ring_bytes
        self._lent = LentBlocks(lender)
        self._shared: dict[Peer, _Shared] = {}

    def room(self, peer: Peer, size: int) -> memoryview | None:
        shared = self._shared.get(peer)
        if shared is None or not shared.mapped or size < INLINE_BYTES:
            return private_room(size)
        return shared.ring.claim(size)

    def direct(self, peer: Peer, size: int) -> Lent | None:
        shared = self._shared.get(peer)
        lent = None if shared is None else shared.lent
        return lent if lent is not None and lent.mapped and lent.fits(size) else None

    def send(self, peer: Peer, head: bytes, body: Body) -> bool:
        shared = self._shared.get(peer) or self._offer(peer)
        if isinstance(body, DirectCopy):
            return self._send_direct(peer, shared, head, body)
        assert isinstance(body, Buffer), "nobody else reads to a device"
        ring = shared.ring
        if (ref := ring.claimed(body)) is None:
            return self._dealers.send(_ipc(peer), inline(head, body))
        if not self._dealers.send(_ipc(peer), (head, b"", ref.pack())):
            return False
        ring.keep(ref)
        return True

    def _send_direct(self, peer: Peer, shared: _Shared, head: bytes, body: DirectCopy) -> bool:
        parts = (head, direct.MARK, body.ref().pack())
        if not body.belongs(shared.lent) or not self._dealers.send(_ipc(peer), parts):
            return False
        body.sent()
        return True

    def receive(self) -> list[Arrived]:
        found = []
        for message in self._dealers.receive():
            peer = _shm(message.peer)
            match message.parts:
                case [mark, word] if not mark:
                    self._told(peer, bytes(word))
                case _:
                    found.append(arrived(Parts(peer, message.parts)))
        return found

    def lost(self, peers: Collection[Peer]) -> list[Peer]:
        return [_shm(peer) for peer in self._dealers.lost({_ipc(p) for p in peers})]

    def forget(self, peer: Peer) -> None:
        self._dealers.forget(_ipc(peer))
        if (shared := self._shared.pop(peer, None)) is not None:
            shared.ring.close()
            if shared.lent is not None:
                self._lent.take_back(shared.lent)

    def sockets(self) -> list[Socket]:
        return self._dealers.sockets()

    def close(self) -> None:
        for peer in list(self._shared):
            self.forget(peer)
        self._dealers.close()

    def _offer(self, peer: Peer) -> _Shared:
        shared = self._shared[peer] = _Shared(RingWriter(self._ring_bytes), self._lent.lend())
        self._dealers.send(_ipc(peer), (b"", _OFFER + shared.ring.offer))
        if shared.lent is not None:
            self._dealers.send(_ipc(peer), (b"", direct.OFFER + shared.lent.offer))
        return shared

    def _told(self, peer: Peer, word: bytes) -> None:
        if (shared := self._shared.get(peer)) is None:
            return
        if word == _MAP:
            shared.mapped = True
        elif word.startswith(_FREE):
            shared.ring.release(int.from_bytes(word.removeprefix(_FREE)[:8], "little"))
        elif shared.lent is not None and word == direct.MAP:
            shared.lent.mapped = True
            log.info("KV goes from device to device")
        elif shared.lent is not None and word.startswith(direct.TOOK):
            shared.lent.took(word.removeprefix(direct.TOOK))


def same_memory() -> LandingRoom:
    """Each body lands where the one before lay: warm memory costs the least."""
    room = private_room(MAX_BODY_BYTES)
    return lambda size: room[:size]


def _ipc(peer: Peer) -> Peer:
    return Peer(peer.replace(b"shm://", b"ipc://", 1))


def _shm(peer: Peer) -> Peer:
    return Peer(peer.replace(b"ipc://", b"shm://", 1))
