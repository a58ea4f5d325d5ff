"""What both ends keep of a transfer: its name and state while it is open, and a tombstone for a while after.

Knows ids, peers and states; knows no frame and no byte of KV.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from kv_transfer.protocol import ReceiverState, SenderState
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


class Graveyard(Generic[State]):
    """The last ``size`` transfers that ended: a late frame is known as such, and a lost last word can be
    repeated.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._graves: OrderedDict[TransferId, Transfer[State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graves)

    def bury(self, transfer: Transfer[State]) -> None:
        self._graves[transfer.id] = transfer.tombstone()
        while len(self._graves) > self._size:
            self._graves.popitem(last=False)

    def find(self, transfer: TransferId) -> Transfer[State] | None:
        return self._graves.get(transfer)
