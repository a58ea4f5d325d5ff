"""What a sender and a receiver tell the node that drives them: plain facts, one class an event.

Knows transfers, token counts and reasons; the payloads are the nodes' own and are passed on unread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kv_transfer.wire import TransferId


class TransferStats(NamedTuple):
    """What one finished transfer cost, from the frames that were really sent.

    ``hidden_bytes`` of ``bytes`` were sent before ``commit`` was called, and ``hidden_ms`` is the time that
    both ends worked on those: it would have been waited for, had they been sent afterwards. ``exposed_ms``
    is the time from ``commit`` until ADOPTED was seen, on the sender's clock.
    """

    bytes: int
    frames: int
    hidden_bytes: int
    hidden_ms: float
    exposed_ms: float


# --- sender -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Granted:
    """The receiver has pages for it, and already holds the KV of the first ``have_tokens`` tokens."""

    transfer: TransferId
    have_tokens: int
    peer_epoch: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The receiver said no before anything was sent. ``retryable``: another moment may do better."""

    transfer: TransferId
    code: str
    reason: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Done:
    """The receiver has adopted the KV: what the sender holds of it may be released."""

    transfer: TransferId
    stats: TransferStats


@dataclass(frozen=True, slots=True)
class Lost:
    """The transfer ended without being adopted: deadline, abort by the peer, peer gone, corruption."""

    transfer: TransferId
    code: str
    reason: str


SenderEvent = Granted | Refused | Done | Lost


# --- receiver -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserved:
    """A sender asks for room for ``num_tokens`` tokens. Answer with grant or refuse before ``deadline``.

    ``peer`` names the connection, for logs; ``deadline`` is on the clock of the ``now`` given to poll.
    """

    transfer: TransferId
    peer: str
    num_tokens: int
    payload: bytes
    deadline: float


@dataclass(frozen=True, slots=True)
class Landed:
    """All tokens are in the granted slots and agree with the digest. Answer with adopt or abort."""

    transfer: TransferId
    payload: bytes


@dataclass(frozen=True, slots=True)
class Dropped:
    """The transfer ended without landing (or before it was adopted): its slots may be reused at once."""

    transfer: TransferId
    code: str
    reason: str


ReceiverEvent = Reserved | Landed | Dropped
