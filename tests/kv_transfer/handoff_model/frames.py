"""The frames of one transfer, as small as the rules need them, and the air in which they hang.

Knows kinds of frames and numbers; knows no state of a side. Nothing is ever taken out of the air: a frame
that was sent may arrive at any later moment, any number of times, in any order, or never. So losing,
repeating, reordering and delaying need no moves and no bounds of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kv_transfer.protocol import Event

ALL_KV, BAD = "kv", "bad"


class Frame(NamedTuple):
    """``life`` is the receiver's that wrote it, 0 in frames of the sender, which has one life.

    ``numbers`` are RESERVE: none; GRANT: have, allowed, 1 if it can be used; DATA: seq, part; CREDIT: taken,
    allowed; COMMIT: frames, bytes. A part is one frame's bytes, the unit of all counts. ``words`` are DATA:
    what its checksum says, what its body is; COMMIT: the checksums by seq, which stand for their digest.
    """

    kind: Event
    to_sender: bool
    life: int = 0
    numbers: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    stranger: bool = False  # it comes from another peer, which has learnt the transfer's name

    def __str__(self) -> str:
        what = ", ".join([*map(str, self.numbers), *self.words])
        life = f" of life {self.life}" if self.to_sender else ""
        return f"{self.kind.name}({what}){life}{' of a stranger' * self.stranger}"


def strangers(parts: int) -> list[Frame]:
    """What one who knows the transfer's name may send to either side over another connection."""
    all_good = (ALL_KV,) * parts
    to_receiver = [
        Frame(Event.DATA, False, 0, (0, 0), (BAD, BAD), True),
        Frame(Event.COMMIT, False, 0, (parts, parts), all_good, True),
        Frame(Event.ABORT, False, stranger=True),
    ]
    to_sender = [
        Frame(Event.GRANT, True, 0, (0, parts, 1), stranger=True),
        Frame(Event.CREDIT, True, 0, (parts, parts), stranger=True),
        *(Frame(kind, True, stranger=True) for kind in (Event.REFUSE, Event.ADOPTED, Event.ABORT)),
    ]
    return to_receiver + to_sender


class Air:
    """Numbers the frames, so that a set of them is an int."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._bits: dict[Frame, int] = {}
        self.to_sender = 0
        self.data = 0

    def mask(self, frames: tuple[Frame, ...]) -> int:
        mask = 0
        for frame in frames:
            if (bit := self._bits.get(frame)) is None:
                bit = self._bits[frame] = 1 << len(self.frames)
                self.frames.append(frame)
                self.to_sender |= bit * frame.to_sender
                self.data |= bit * (frame.kind is Event.DATA)
            mask |= bit
        return mask

    def of(self, mask: int) -> Iterator[tuple[int, Frame]]:
        while mask:
            bit = mask & -mask
            yield bit, self.frames[bit.bit_length() - 1]
            mask ^= bit
