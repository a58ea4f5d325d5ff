"""What the seed of a request asks of the watched nodes (``watched_child``), and how it is written into it.

A seed travels unchanged from the client to every node, so that no other word between them is needed. Knows
numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass

HOLDS = ("", "granted", "streaming", "landed", "last")  # where a decode node may be asked to stand still
_NONE = 127
_MARKED = 0b101_1010_0110 << 52  # eleven bits that other seeds do not have


@dataclass(frozen=True, slots=True)
class Mark:
    """``cut``: the first attempt tells the router no token from this index on. ``again``: the same for the
    attempt that goes on from there. ``hold``: one of HOLDS. ``serial`` tells requests apart.
    """

    serial: int
    cut: int | None = None
    again: int | None = None
    hold: str = ""

    @property
    def seed(self) -> int:
        cuts = (_NONE if cut is None else cut for cut in (self.cut, self.again))
        first, second = cuts
        assert 0 <= first <= _NONE
        assert 0 <= second <= _NONE
        assert 0 <= self.serial < 1 << 32
        return _MARKED | HOLDS.index(self.hold) << 48 | first << 40 | second << 32 | self.serial

    @classmethod
    def of(cls, seed: int) -> Mark | None:
        """The mark in ``seed``, or None."""
        if seed >> 52 << 52 != _MARKED or (seed >> 48) & 15 >= len(HOLDS):
            return None
        cut, again = ((seed >> shift) & 127 for shift in (40, 32))
        return cls(
            seed & 0xFFFFFFFF,
            None if cut == _NONE else cut,
            None if again == _NONE else again,
            HOLDS[(seed >> 48) & 15],
        )
