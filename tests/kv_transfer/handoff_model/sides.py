"""What both sides of the model have in common: a step, and how a table's rule is carried out.

Knows tables, steps and configurations; what the actions do is in ``sending`` and ``receiving``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple

from handoff_model.frames import Frame

from kv_transfer.protocol import RECEIVER, SENDER, Event, ReceiverState, SenderState, Table

# Of these the peer must be told at once: of the calls always, of the others when they end the transfer.
TELLING = frozenset({Event.DO_GRANT, Event.DO_REFUSE, Event.DO_ADOPT, Event.DO_ABORT})
ENDING = frozenset({Event.UNFIT, Event.CORRUPT, Event.MISMATCH, Event.DEADLINE})


class Wrong(Exception):
    """A promise is broken."""


class Kind(Enum):
    """Why a step happens. COOPERATE is what a node that wants the transfer to succeed calls, PUMP what each
    poll does by itself.
    """

    FRAME = auto()
    COOPERATE = auto()
    HINDER = auto()
    PUMP = auto()
    RETRY = auto()
    DEADLINE = auto()
    PEER_LOST = auto()
    CRASH = auto()
    FORGET = auto()


class Step(NamedTuple):
    """One side moves: its next local state, what it sends, and what is wrong with that if anything is."""

    kind: Kind
    label: str
    next: Any
    sent: tuple[Frame, ...] = ()
    wrong: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The size of the world, and which misfortunes it knows."""

    name: str
    parts: int = 2
    credit: int = 1  # parts that a transfer may have under way
    haves: tuple[int, ...] = (0,)  # prefix hits that the receiver's node may grant with
    receiver_lives: int = 1
    sender_may_die: bool = False
    retracts: bool = False
    damage: bool = False  # one frame's bytes change, with or without its checksum
    unfit: bool = False  # layouts that differ, too many open, a GRANT that cannot be used
    forgets: bool = False  # tombstones go, with the frames that were sent before
    forgets_early: bool = False  # tombstones go while frames that were sent before may still come


@dataclass(frozen=True, slots=True)
class Tables:
    sender: Table[SenderState] = field(default_factory=lambda: SENDER)
    receiver: Table[ReceiverState] = field(default_factory=lambda: RECEIVER)


class Turn:
    """One local state being changed by one call, frame or finding. ``fire`` is the shells'."""

    open_states: frozenset[Any]

    def __init__(self, config: Config, table: Table[Any], local: Any) -> None:
        self.config = config
        self.table = table
        self.x = local
        self.sent: list[Frame] = []
        self.fired: list[tuple[Any, Event]] = []

    def set(self, **changes: Any) -> None:
        self.x = self.x._replace(**changes)

    def fire(self, event: Event, frame: Frame | None = None) -> None:
        self.fired.append((self.x.state, event))
        rule = self.table[self.x.state][event]
        was_open, said = self.x.open, len(self.sent)
        self.set(state=rule.next)
        for action in rule.actions:
            self.act(action, event, frame)
        if self.x.state not in self.open_states:
            self.set(open=False)
        if was_open and (event in TELLING or (event in ENDING and not self.x.open)):
            self.check(len(self.sent) > said, f"the peer is not told of {event.name}")

    def act(self, action: Any, event: Event, frame: Frame | None) -> None:
        raise NotImplementedError

    def told(self, what: str) -> None:
        """The node is told ``what``. It reads it at once: its calls for what has ended reach no rule."""
        if self.x.end:
            raise Wrong(f"{what} is told after the end, which was {self.x.end}")

    def ended(self, how: str) -> None:
        """The node was told of an end, or ended the transfer itself: its pages go back, once."""
        self.told(how)
        self.set(end=how)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Wrong(what)
