"""A ring of bytes in memory that two processes share: the sender writes bodies, the receiver copies them out.

Knows one memory segment and the two positions in it; knows no frame and no socket. The segment is a memfd:
it has no name in any file system, so nothing is left of it when both processes are gone, however they went;
it is reached through ``/proc/PID/fd``, which the kernel opens to the same user only. It is sealed against
shrinking, so a reader cannot be made to fault.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
from typing import NamedTuple

from kv_transfer.wire import Buffer
from pagewire.errors import RemoteProtocolError

RING_BYTES = 32 << 20
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
NONCE_BYTES = 16
START = mmap.PAGESIZE  # the page before it holds the nonce, by which the reader knows the right segment
_OFFER = struct.Struct("<QQQ16s")
OFFER_BYTES = _OFFER.size
_REF = struct.Struct("<QQQ")


class Offer(NamedTuple):
    """What it takes to map a segment, or to know it."""

    pid: int
    fd: int
    size: int  # without the page of the nonce
    nonce: bytes

    def pack(self) -> bytes:
        return _OFFER.pack(*self)

    @classmethod
    def unpack(cls, data: Buffer) -> Offer:
        if len(data) != _OFFER.size:
            raise RemoteProtocolError("not an offer of a ring")
        return cls(*_OFFER.unpack(data))


class Ref(NamedTuple):
    """Where a body lies. ``end`` is the writer's position behind it, counted in bytes since the start."""

    offset: int
    size: int
    end: int

    def pack(self) -> bytes:
        return _REF.pack(*self)

    @classmethod
    def unpack(cls, data: Buffer) -> Ref:
        if len(data) != _REF.size:
            raise RemoteProtocolError("not a reference into a ring")
        return cls(*_REF.unpack(data))


class RingWriter:
    """The owner's end. Bodies lie one behind the other, each in one piece, and are freed in that order.

    While the reader keeps up, only the first quarter is used.
    """

    def __init__(self, size: int = RING_BYTES) -> None:
        self._size, self._warm = size, size // 4
        self._fd = os.memfd_create("pagewire-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._fd, START + size)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
        self._map = mmap.mmap(self._fd, START + size)
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._map[:NONCE_BYTES] = self._nonce
        self._head = 0  # both count up for ever; head - tail is in use
        self._tail = 0
        self._claim: tuple[memoryview, Ref] | None = None

    @property
    def offer(self) -> bytes:
        """What the reader needs to map the segment."""
        return Offer(os.getpid(), self._fd, self._size, self._nonce).pack()

    @property
    def used(self) -> int:
        return self._head - self._tail

    def claim(self, size: int) -> memoryview | None:
        """Room for a body, to be filled; None if there is none now. Free until ``keep``."""
        at, tail_at = self._head % self._size, self._tail % self._size
        if self._head == self._tail and at:
            self._head = self._tail = self._head - at + self._size
            at = tail_at = 0
        # A lap ends where the rest of it is too short. It ends early once the first bytes are free again:
        # memory that was used a moment ago is still in the caches, which takes a third off both copies.
        early = at >= self._warm and size <= tail_at <= at
        skip = self._size - at if early or at + size > self._size else 0
        if self.used + skip + size > self._size:
            return None
        at = START + (at + skip) % self._size
        body = memoryview(self._map)[at : at + size]
        self._claim = body, Ref(at, size, self._head + skip + size)
        return body

    def claimed(self, body: Buffer) -> Ref | None:
        """Where ``body`` lies, if it is what ``claim`` gave last."""
        return self._claim[1] if self._claim is not None and self._claim[0] is body else None

    def keep(self, ref: Ref) -> None:
        """The claimed room is the reader's from now on, until ``release``."""
        self._head, self._claim = ref.end, None

    def release(self, end: int) -> None:
        """The reader has copied everything before ``end``. A value that cannot be is ignored."""
        if self._tail < end <= self._head:
            self._tail = end

    def close(self) -> None:
        """The memory goes with the last view of it."""
        self._claim = None
        os.close(self._fd)


class RingReader:
    """The other end: read-only, and trusting nothing that it is told."""

    def __init__(self, offer: Buffer) -> None:
        """Map the offered segment. Raises RemoteProtocolError if that cannot be done, or is not safe."""
        self._map = map_offered(offer)
        self._view = memoryview(self._map)

    def copy(self, ref: Ref, target: memoryview) -> memoryview:
        """Copy a body to the start of ``target``, which is large enough, and return it there.

        Raises RemoteProtocolError if ``ref`` leaves the segment.
        """
        if not START <= ref.offset <= ref.offset + ref.size <= len(self._map):
            raise RemoteProtocolError("reference outside the ring")
        body = target[: ref.size]
        body[:] = self._view[ref.offset : ref.offset + ref.size]
        return body

    def close(self) -> None:
        self._view.release()
        self._map.close()


def map_offered(offer: Buffer, *, writable: bool = False) -> mmap.mmap:
    """The offered segment. Raises RemoteProtocolError if it cannot be mapped, or is not safe."""
    pid, number, size, nonce = Offer.unpack(offer)
    mode = os.O_RDWR if writable else os.O_RDONLY
    try:
        fd = os.open(f"/proc/{pid}/fd/{number}", mode | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RemoteProtocolError("the offered ring cannot be opened") from error
    try:
        found = _map_sealed(fd, START + size, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
    finally:
        os.close(fd)
    if found[:NONCE_BYTES] != nonce:
        found.close()
        raise RemoteProtocolError("the offered ring is another process's")
    return found


def _map_sealed(fd: int, size: int, prot: int) -> mmap.mmap:
    try:
        if os.fstat(fd).st_size != size or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise RemoteProtocolError("the offered ring is not of the size it says, or not sealed")
        return mmap.mmap(fd, size, prot=prot)
    except (OSError, ValueError, OverflowError) as error:
        raise RemoteProtocolError("the offered ring cannot be mapped") from error
