"""Bodies that stay in the memory of devices: the sender's is mapped by the receiver, who copies out of it.

A link between two processes of one host may have, beside its ring of host memory, blocks of a device's
memory. A frame that goes this way lies in one block, from the moment when it is begun to be read out of the
pages until the receiver has said that it took it; whatever order that comes in. Each link has blocks of its
own, so a receiver that stands holds up nobody else. They are never freed before the process ends: those of a
link that is gone go to the next one, so no mapping outlives its memory while this process lives.

Knows blocks, their numbers and who has them. What a block is, how it is read into and how it is mapped is
known to the two devices that the nodes hand in.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import NamedTuple, Protocol

from kv_transfer.store import Slots
from kv_transfer.wire import Buffer, DeviceBody
from pagewire.errors import RemoteProtocolError

MARK = b"device"  # between a frame's head and its reference
OFFER, MAP, TOOK = b"lend-device", b"map-device", b"took-device"  # words of the transport
_REF = struct.Struct("<QQQ")
NUMBER = struct.Struct("<Q")  # of a block, in TOOK


# --- what the nodes' devices do -----------------------------------------------------------------------------


class Blocks(Protocol):
    """``count`` blocks of ``size`` bytes that another process can map."""

    offer: bytes  # how to map them, at most a few hundred bytes
    count: int
    size: int

    def read(self, block: int, slots: Slots, layers: slice) -> None:
        """Begin to read the slab of ``slots`` and ``layers`` into ``block``, and then its checksum."""
        ...

    def done(self, block: int) -> bool:
        """True if all that was begun for ``block`` is done."""
        ...

    def checksum(self, block: int) -> int:
        """Of what was read last, which is done."""
        ...

    def offset(self, block: int) -> int:
        """Where it begins in what is mapped."""
        ...


class Lender(Protocol):
    """The sender's device."""

    def lend(self) -> Blocks | None:
        """Memory for one link; None if there is none, or none that another process could map."""
        ...


class Mapped(Protocol):
    """A sender's memory, as the receiver sees it."""

    def bring(self, offset: int, size: int) -> Brought:
        """Begin to copy those bytes into memory of our own, and then to compute their checksum.

        Raises RemoteProtocolError if they are not in what was lent.
        """
        ...

    def close(self) -> None:
        """Unmap it, when nothing is copied from it any more."""
        ...


class Brought(DeviceBody, Protocol):
    def wait(self) -> None:
        """Until nothing more is read of the sender's memory."""
        ...


class Borrower(Protocol):
    """The receiver's device. It may have at least ``AHEAD`` bodies at once."""

    def map(self, offer: bytes) -> Mapped:
        """Raises RemoteProtocolError, with the reason, if that cannot be done."""
        ...


AHEAD = 8  # bodies that are begun to be copied before the first of them is looked at


# --- the sender's end of a link -----------------------------------------------------------------------------


class Ref(NamedTuple):
    """Where a body lies. ``block`` is what the reader gives back."""

    block: int
    offset: int
    size: int

    def pack(self) -> bytes:
        return _REF.pack(*self)

    @classmethod
    def unpack(cls, data: Buffer) -> Ref:
        if len(data) != _REF.size:
            raise RemoteProtocolError("not a reference into a device's memory")
        return cls(*_REF.unpack(data))


class Lent:
    """The blocks of one link. A block is free, read into, or the reader's."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._free = deque(range(blocks.count))
        self._sent: set[int] = set()
        self.mapped = False  # the reader has said that it can

    @property
    def offer(self) -> bytes:
        return self._blocks.offer

    @property
    def used(self) -> int:
        """Blocks that are not free."""
        return self._blocks.count - len(self._free)

    @property
    def busy(self) -> bool:
        """A block is free but for what the device still does there. Of all others somebody will say so."""
        return bool(self._free)

    def fits(self, size: int) -> bool:
        return size <= self._blocks.size

    def begin(self, slots: Slots, layers: slice, size: int) -> DirectCopy | None:
        """As ``PageSource.begin``; ``size`` bytes, which fit a block."""
        if not self._free or not self._blocks.done(self._free[0]):
            return None
        block = self._free.popleft()
        self._blocks.read(block, slots, layers)
        return DirectCopy(self, self._blocks, block, size)

    def keep(self, block: int) -> None:
        """It is the reader's from now on, until ``took``."""
        self._sent.add(block)

    def took(self, word: bytes) -> None:
        """The reader has copied these blocks. Numbers that cannot be are ignored."""
        for (block,) in NUMBER.iter_unpack(word[: len(word) // NUMBER.size * NUMBER.size]):
            if block in self._sent:
                self._sent.remove(block)
                self._free.append(block)

    def end(self) -> Blocks:
        """The link is gone, and with it who could say anything of what was sent. For another link."""
        return self._blocks

    def free(self, block: int) -> None:
        self._free.append(block)


class DirectCopy:
    """A slab that is being read into a block, and the body of the frame that it goes with."""

    def __init__(self, home: Lent, blocks: Blocks, block: int, size: int) -> None:
        self._home, self._blocks, self._block, self._size = home, blocks, block, size
        self._ours = True

    def __len__(self) -> int:
        return self._size

    def ready(self) -> bool:
        return self._blocks.done(self._block)

    def checksum(self) -> int:
        assert self.ready(), "it is still being read"
        return self._blocks.checksum(self._block)

    def ref(self) -> Ref:
        return Ref(self._block, self._blocks.offset(self._block), self._size)

    def sent(self) -> None:
        """It is on its way: the block is the reader's."""
        assert self._ours, "sent or dropped before"
        self._ours = False
        self._home.keep(self._block)

    def belongs(self, lent: Lent | None) -> bool:
        return self._home is lent

    def drop(self) -> None:
        """It is not wanted any more; does nothing after ``sent``."""
        if self._ours:
            self._ours = False
            self._home.free(self._block)


class LentBlocks:
    """All blocks that this process has lent, and those that wait for another link."""

    def __init__(self, lender: Lender | None) -> None:
        self._lender = lender
        self._idle: list[Blocks] = []

    def lend(self) -> Lent | None:
        blocks = self._idle.pop() if self._idle else None
        if blocks is None and self._lender is not None:
            blocks = self._lender.lend()
        return None if blocks is None else Lent(blocks)

    def take_back(self, lent: Lent) -> None:
        self._idle.append(lent.end())
