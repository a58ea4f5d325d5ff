"""What both ends keep of their transfers: name, state and times while one is open, a tombstone for a while
after.

Knows ids, peers, states and numbers of seconds; knows no frame and no byte of KV, and reads no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kv_transfer.limits import Timeouts
from kv_transfer.protocol import Event, ReceiverState, SenderState
from kv_transfer.transports.base import Peer
from kv_transfer.wire import TransferId

State = TypeVar("State", SenderState, ReceiverState)


@dataclass(slots=True, eq=False)
class Transfer(Generic[State]):
    """One transfer at one end. ``code`` and ``reason`` say why it ended, once it has."""

    id: TransferId
    peer: Peer
    peer_epoch: str  # "" until the peer has spoken
    state: State
    code: str = ""
    reason: str = ""
    retryable: bool = False

    def blame(self, code: str, reason: str, *, retryable: bool = False) -> None:
        self.code, self.reason, self.retryable = code, reason, retryable

    def owns(self, peer: Peer, epoch: str) -> bool:
        """True if a frame from ``peer`` in its life ``epoch`` may speak for this transfer."""
        return peer == self.peer and self.peer_epoch in ("", epoch)

    def tombstone(self) -> Transfer[State]:
        return Transfer(
            self.id, self.peer, self.peer_epoch, self.state, self.code, self.reason, self.retryable
        )


@dataclass(slots=True, eq=False, kw_only=True)
class OpenTransfer(Transfer[State]):
    """Times are on the clock of the node's loop."""

    deadline: float
    retry_at: float
    progress_at: float


Open = TypeVar("Open", bound=OpenTransfer[Any])


class Ledger(Generic[State, Open]):
    """The open transfers, and the last ``graves`` that ended: a late frame is known as such, and a lost last
    word can be repeated.
    """

    def __init__(self, hurried: frozenset[State], timeouts: Timeouts, graves: int) -> None:
        """In a ``hurried`` state a transfer has to make progress every ``stall_s``."""
        self._hurried: frozenset[State] = hurried
        self._timeouts = timeouts
        self._graves = graves
        self._open: dict[TransferId, Open] = {}
        self._ended: OrderedDict[TransferId, Transfer[State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Open]:
        """Those that are open now; they may end meanwhile."""
        return iter(list(self._open.values()))

    def get(self, transfer: TransferId) -> Open | None:
        """The transfer if it is open."""
        return self._open.get(transfer)

    def find(self, transfer: TransferId) -> Transfer[State] | None:
        """The transfer if it is open, or what is left of it."""
        return self._open.get(transfer) or self._ended.get(transfer)

    def add(self, t: Open) -> None:
        self._open[t.id] = t

    def bury(self, t: Transfer[State]) -> Open | None:
        """``t`` has ended. Returns it if it was open until now."""
        gone = self._open.pop(t.id, None)
        if gone is not None:
            self._ended[t.id] = gone.tombstone()
            while len(self._ended) > self._graves:
                self._ended.popitem(last=False)
        return gone

    def peers(self) -> set[Peer]:
        return {t.peer for t in self._open.values()}

    def of(self, peer: Peer) -> list[Open]:
        return [t for t in self._open.values() if t.peer == peer]

    def due_at(self, otherwise: float) -> float:
        """When ``overdue`` will have something to say."""
        return min((min(t.retry_at, self._ends_at(t)) for t in self._open.values()), default=otherwise)

    def overdue(self, now: float) -> list[tuple[Open, Event]]:
        """Transfers that are out of time, with the blame put on them, and those that have to say it again."""
        found = []
        for t in self._open.values():
            if now >= self._ends_at(t):
                late = now >= t.deadline
                t.blame(*(("deadline", "deadline passed") if late else ("stalled", "no progress")))
                found.append((t, Event.DEADLINE))
            elif now >= t.retry_at:
                t.retry_at = now + self._timeouts.retry_s
                found.append((t, Event.RETRY))
        return found

    def _ends_at(self, t: Open) -> float:
        hurried = t.state in self._hurried
        return min(t.deadline, t.progress_at + self._timeouts.stall_s) if hurried else t.deadline
