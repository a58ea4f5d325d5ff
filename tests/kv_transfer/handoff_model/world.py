"""Both sides and the air between them as one system: which steps there are from a state, and what must hold
between the sides.

A state is one int: the number of the sender's local state, that of the receiver's, and the set of frames in
the air. What a side does depends on its local state and on one frame, so each local step is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from handoff_model import receiving, sending
from handoff_model.frames import BAD, Air, Frame, strangers
from handoff_model.receiving import Receiving, ReceivingTurn
from handoff_model.sending import Sending, SendingTurn
from handoff_model.sides import Config, Kind, Step, Tables, Turn, Wrong

from kv_transfer.protocol import Event

_BITS = 20  # of a local state's number
_LOCAL = (1 << _BITS) - 1


class Move(NamedTuple):
    """A step of the system: which side moves to which local state, and what is added to the air."""

    by_sender: bool
    step: Step
    next: int
    mask: int
    frame: int = 0  # the bit of the frame that arrives
    clears: bool = False  # what was sent to this side before will not come any more


class Side:
    """All local states of one side that have come up, numbered, and their steps."""

    def __init__(
        self, air: Air, turn: Callable[[Any], Turn], start: Any, outside: list[Frame], *, by_sender: bool
    ) -> None:
        """``turn`` makes a local state ready to change; ``outside`` are frames that may come at any time."""
        self._air, self._turn, self._outside = air, turn, outside
        self.by_sender = by_sender
        self.locals: list[Any] = []
        self._numbers: dict[Any, int] = {}
        self._own: dict[int, list[Move]] = {}
        self._react: dict[tuple[int, int], list[Move]] = {}
        self.fired: set[tuple[Any, Event]] = set()
        self.number(start)

    def number(self, local: Any) -> int:
        if (n := self._numbers.get(local)) is None:
            n = self._numbers[local] = len(self.locals)
            self.locals.append(local)
        return n

    def own(self, n: int) -> list[Move]:
        """What may happen without a frame of the peer."""
        if (moves := self._own.get(n)) is None:
            turn = self._turn(self.locals[n])
            moves = [self._run(n, kind, label, act) for kind, label, act in turn.moves()]
            moves += [self._arrive(n, frame, 0) for frame in self._outside]
            moves = self._own[n] = [m for m in moves if self._matters(n, m)]
        return moves

    def react(self, n: int, bit: int, frame: Frame) -> list[Move]:
        """What may happen when ``frame`` arrives."""
        if (moves := self._react.get((n, bit))) is None:
            moves = [self._arrive(n, frame, bit)]
            if frame.kind is Event.RESERVE and self._turn(self.locals[n]).config.unfit:
                moves.append(self._run(n, Kind.HINDER, "is unfit", lambda t: t.arrive(frame, False), bit))
            moves = self._react[n, bit] = [m for m in moves if self._matters(n, m)]
        return moves

    def after(self, n: int, label: str, act: Callable[[Any], None]) -> Step:
        """What would follow, outside of the search."""
        return self._run(n, Kind.DEADLINE, label, act).step

    def _matters(self, n: int, move: Move) -> bool:
        return move.next != n or move.mask != 0 or move.step.wrong != ""

    def _arrive(self, n: int, frame: Frame, bit: int) -> Move:
        dead = getattr(self.locals[n], "dead", False)
        return self._run(n, Kind.FRAME, str(frame), lambda t: None if dead else t.arrive(frame), bit)

    def _run(self, n: int, kind: Kind, label: str, act: Callable[[Any], None], bit: int = 0) -> Move:
        turn = self._turn(self.locals[n])
        wrong = ""
        try:
            act(turn)
        except Wrong as error:
            wrong = str(error)
        self.fired.update(turn.fired)
        step = Step(kind, label, turn.x, tuple(turn.sent), wrong)
        clears = kind is Kind.FORGET and not turn.config.forgets_early
        return Move(self.by_sender, step, self.number(turn.x), self._air.mask(step.sent), bit, clears)


class World:
    """One transfer between two nodes. ``sender`` and ``receiver`` may be given with a broken guard."""

    def __init__(
        self,
        config: Config,
        tables: Tables | None = None,
        sender: type[SendingTurn] = SendingTurn,
        receiver: type[ReceivingTurn] = ReceivingTurn,
    ) -> None:
        tables = tables or Tables()
        outside = strangers(config.parts)
        self.config = config
        self.air = Air()
        self.sender = Side(
            self.air,
            lambda local: sender(config, tables.sender, local),
            Sending(),
            [f for f in outside if f.to_sender],
            by_sender=True,
        )
        self.receiver = Side(
            self.air,
            lambda local: receiver(config, tables.receiver, local),
            Receiving(),
            [f for f in outside if not f.to_sender],
            by_sender=False,
        )
        self._between: dict[int, str] = {}
        self._damaged = 0  # the frames that the network has changed; never more than one is in the air

    start = 0

    def wrong(self, s: Any, r: Any) -> str:
        """What is wrong with or between two local states; empty if nothing is."""
        return _between(s, r)

    def damaged(self, frame: Any) -> list[Any]:
        """``frame`` with changed bytes, and with a checksum that agrees with them."""
        return [frame._replace(words=(checksum, BAD)) for checksum in (frame.words[0], BAD)]

    def sides(self, state: int) -> tuple[Sending, Receiving]:
        return self.sender.locals[state & _LOCAL], self.receiver.locals[state >> _BITS & _LOCAL]

    def numbers(self, state: int) -> tuple[int, int]:
        return state & _LOCAL, state >> _BITS & _LOCAL

    def in_air(self, state: int) -> int:
        return state >> 2 * _BITS

    def with_air(self, state: int, mask: int) -> int:
        return state & (1 << 2 * _BITS) - 1 | mask << 2 * _BITS

    def moves(self, state: int) -> Iterator[tuple[Move, int]]:
        """Every step from ``state`` that changes it or is wrong, and where it leads."""
        s, r, air = state & _LOCAL, state >> _BITS & _LOCAL, state >> 2 * _BITS
        for move in self.sender.own(s):
            yield move, self._apply(move, s, r, air)
        for move in self.receiver.own(r):
            yield move, self._apply(move, s, r, air)
        for bit, frame in self.air.of(air):
            side, n = (self.sender, s) if frame.to_sender else (self.receiver, r)
            for move in side.react(n, bit, frame):
                after = self._apply(move, s, r, air)
                if after != state or move.step.wrong:
                    yield move, after
        if self.config.damage and not self._damaged & air:
            yield from self._damage(s, r, air)

    def between(self, state: int) -> str:
        """What is wrong between the two sides in ``state``; empty if nothing is."""
        pair = state & (1 << 2 * _BITS) - 1
        if (wrong := self._between.get(pair)) is None:
            wrong = self._between[pair] = self.wrong(*self.sides(state))
        return wrong

    def _apply(self, move: Move, s: int, r: int, air: int) -> int:
        if move.by_sender:
            s = move.next
        else:
            r = move.next
        if move.clears:
            air &= ~(self.air.to_sender if move.by_sender else ~self.air.to_sender)
        return s | r << _BITS | (air | move.mask) << 2 * _BITS

    def _damage(self, s: int, r: int, air: int) -> Iterator[tuple[Move, int]]:
        for _, frame in self.air.of(air & self.air.data):
            for copy in self.damaged(frame):
                mask = self.air.mask((copy,))
                self._damaged |= mask
                label = f"{frame} becomes {copy}"
                move = Move(True, Step(Kind.HINDER, label, None), s, mask)
                yield move, self._apply(move, s, r, air)


def _between(s: Sending, r: Receiving) -> str:
    if alone := sending.wrong(s) or receiving.wrong(r):
        return alone
    if s.end == "done" and s.done not in r.adopted:
        return "Done is told, but that receiver has not adopted"
    if r.have is not None and s.epoch == r.life and s.open and r.open and s.allowed > r.allowed:
        return "more is allowed at the sender than the receiver has granted"
    return ""
