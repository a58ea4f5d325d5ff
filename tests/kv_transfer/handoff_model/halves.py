"""What the halves of the real handoff have in common: frames, a wire, and time that stands still.

A half is one real shell with its node, its pages and one transfer, put in the place of a side of the model.
That a wait is over is a step. What a half does depends on what it holds and on one frame, so each step is
taken once, on a copy. Which shell it is, ``sender_half`` and ``receiver_half`` know.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from handoff_model.frames import BAD
from handoff_model.sides import Config, Kind, Wrong

from kv_transfer import (
    wire,
)
from kv_transfer.protocol import Event
from kv_transfer.transports.base import Arrived, Peer
from kv_transfer.transports.loopback import Loopback, LoopbackEnd
from kv_transfer.wire import Buffer, TransferId

NOW, LONG = 50.0, 30.0
PREFILL, DECODE, STRANGER = Peer(b"prefill"), Peer(b"decode"), Peer(b"stranger")
FIRST = b"first"

Moves = Iterator[tuple[Kind, str, Callable[[Any], None]]]


class RealFrame(NamedTuple):
    kind: Event
    to_sender: bool
    head: bytes
    body: bytes
    words: tuple[str, ...] = ()
    stranger: bool = False

    def __str__(self) -> str:
        message = wire.decode(self.head, self.body)
        shown = ("seq", "allowed_bytes", "frames", "epoch")
        what = ", ".join(f"{name} {getattr(message, name)}" for name in shown if hasattr(message, name))
        return f"{self.kind.name}({', '.join([what, *self.words])}){' of a stranger' * self.stranger}"

    def damaged(self) -> list[RealFrame]:
        """One bit of the body is another; and the same with a checksum that agrees."""
        body = bytes([self.body[0] ^ 1]) + self.body[1:]
        message = copy.copy(wire.decode(self.head, self.body))
        object.__setattr__(message, "checksum", wire.checksum(body))
        plain = self._replace(body=body, words=(BAD,))
        return [plain, plain._replace(head=wire.encode(message, body), words=(BAD, BAD))]


def real_frame(
    message: wire.Message, to_sender: bool, body: bytes = b"", stranger: bool = False
) -> RealFrame:
    return RealFrame(Event[message.name], to_sender, wire.encode(message, body), body, stranger=stranger)


class Line(LoopbackEnd):
    """Keeps what is sent to the other half; what is sent to others goes nowhere."""

    def __init__(self, name: Peer, other: Peer) -> None:
        super().__init__(Loopback(), name)
        self.other, self.gone = other, False
        self.out: list[RealFrame] = []

    def send(self, peer: Peer, head: bytes, body: Buffer) -> bool:
        if peer == self.other:
            message = wire.decode(head, body)
            self.out.append(RealFrame(Event[message.name], self.other == PREFILL, head, bytes(body)))
        return True

    def lost(self, peers: Any) -> list[Peer]:
        return list(peers) if self.gone else []


class Half:
    """One process. ``fired`` is there for the model's sake only."""

    line: Line
    side: Any
    state: Any
    unknown: Any

    def __init__(self, config: Config, transfer: TransferId) -> None:
        self.config, self.transfer = config, transfer
        self.dead = self.cut = False
        self.end = ""

    @property
    def open(self) -> bool:
        return self._t is not None

    @property
    def _t(self) -> Any:
        return self.side._transfers.get(self.transfer)

    def arrive(self, frame: RealFrame) -> None:
        peer = STRANGER if frame.stranger else self.line.other
        self.line.inbox.append(Arrived(peer, frame.head, frame.body))
        self.poll()

    def poll(self) -> None:
        raise NotImplementedError

    def over(self, what: str) -> None:
        """A wait of the transfer is over."""
        setattr(self._t, what, NOW)
        self.poll()

    def peer_lost(self) -> None:
        self.line.gone = self.cut = True
        self.poll()
        self.line.gone = False

    def abort(self) -> None:
        self.side.abort(self.transfer, "no", "no")
        self.ended("aborted")

    def forget(self) -> None:
        self.side._transfers._ended.clear()

    def ended(self, how: str) -> None:
        if self.end:
            raise Wrong(f"{how} is told after the end, which was {self.end}")
        self.end = how

    def remembered(self) -> Any:
        """What is left of the transfer once it has ended."""
        return self.side._transfers._ended.get(self.transfer)

    def time(self) -> Moves:
        if self.open:
            yield Kind.RETRY, "RETRY", lambda h: h.over("retry_at")
            yield Kind.DEADLINE, "DEADLINE", lambda h: h.over("deadline")
            yield Kind.PEER_LOST, "PEER_LOST", lambda h: h.peer_lost()
        elif self.remembered() and self.config.forgets:
            yield Kind.FORGET, "forget", lambda h: h.forget()

    def key(self) -> tuple[Any, ...]:
        found = self.side._transfers.find(self.transfer)
        self.state = found.state if found else self.unknown
        self.epoch = found.peer_epoch if found else ""
        return self.state, self.epoch, self.open, self.dead, self.cut, self.end


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)
