"""One transfer at the receiver: where its KV goes, what of it is there, and which frames have a place in it.

Pure arithmetic: knows ranges, byte counts and checksums as numbers; knows no store, socket or table of
states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from kv_transfer import wire
from kv_transfer.credits import Window
from kv_transfer.protocol import ReceiverState
from kv_transfer.slab import Coverage, Part
from kv_transfer.store import Slots
from kv_transfer.transfers import OpenTransfer
from pagewire.layout import KVLayout


class Place(Enum):
    """What a DATA frame is to the transfer that it names."""

    EMPTY = auto()  # it has a place that is still empty
    TAKEN = auto()  # its range, part of it, or its seq is already there
    NOWHERE = auto()  # outside of what was granted, of another size than its range, or beyond its credit


@dataclass(slots=True, eq=False)
class Landing:
    """Where a granted transfer's KV goes and what of it is there."""

    layout: KVLayout
    slots: Slots  # [num_tokens]; those below have_tokens are never written
    have_tokens: int
    window: Window
    coverage: Coverage
    checksums: dict[int, int] = field(default_factory=dict)  # by seq
    seconds: float = 0.0  # of work to take the frames in

    def place(self, message: wire.Data, size: int) -> Place:
        """``size`` is the body's. Looks at the header only."""
        part = part_of(message)
        fits = self.coverage.contains(part) and size == part.nbytes(self.layout)
        if not fits or size > self.window.held:
            return Place.NOWHERE
        taken = message.seq in self.checksums or self.coverage.overlaps(part)
        return Place.TAKEN if taken else Place.EMPTY

    def wrote(self, message: wire.Data) -> None:
        self.coverage.add(part_of(message))
        self.checksums[message.seq] = message.checksum

    def waits(self, commit: wire.Commit) -> bool:
        """True while frames that ``commit`` counts may still come."""
        return bool(self.coverage.missing) and len(self.checksums) < commit.frames

    def agrees(self, commit: wire.Commit) -> bool:
        """True if all tokens are there, from exactly the frames that ``commit`` says were sent."""
        frames = len(self.checksums)
        return (
            self.coverage.missing == 0
            and commit.frames == frames
            and commit.bytes == self.window.taken
            and self.checksums.keys() == set(range(frames))
            and commit.digest == wire.digest([self.checksums[seq] for seq in range(frames)])
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Incoming(OpenTransfer[ReceiverState]):
    num_tokens: int
    payload: bytes  # of RESERVE, until our node was told
    landing: Landing | None = None  # from grant on
    commit: wire.Commit | None = None
    commit_payload: bytes = b""

    def grant_message(self, epoch: str, frame_bytes: int) -> wire.Grant:
        assert self.landing is not None
        allowed = self.landing.window.allowed
        return wire.Grant(self.id, epoch, self.landing.have_tokens, allowed, frame_bytes)

    def credit_message(self, epoch: str) -> wire.Credit:
        """Totals, so that a CREDIT that gets lost is made good by the next."""
        assert self.landing is not None
        window = self.landing.window
        return wire.Credit(self.id, epoch, window.taken, window.allowed)


def part_of(message: wire.Data) -> Part:
    return Part(message.token_start, message.token_stop, message.layer_start, message.layer_stop)
