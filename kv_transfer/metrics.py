"""What a sender and a receiver count. Plain integers: the node puts them where its metrics go."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol


@dataclass(slots=True)
class SenderCounts:
    """Since the start. ``stray`` frames are well-formed but have no business in the transfer's state."""

    reserved: int = 0
    refused: int = 0
    done: int = 0
    lost: int = 0
    aborted: int = 0  # by our own node
    frames: int = 0  # DATA frames sent
    bytes: int = 0  # bodies of those
    retries: int = 0  # RESERVE or COMMIT sent again
    late: int = 0  # frames for a transfer that has ended
    unknown: int = 0  # frames for a transfer never heard of
    stray: int = 0
    forged: int = 0  # right transfer; wrong peer or epoch
    version: int = 0  # of another major version of the handoff
    malformed: int = 0


@dataclass(slots=True)
class ReceiverCounts:
    """Since the start. None of the refused frames changes a page."""

    reserved: int = 0
    refused: int = 0
    landed: int = 0
    adopted: int = 0
    dropped: int = 0
    aborted: int = 0  # by our own node
    frames: int = 0  # DATA frames written to pages
    bytes: int = 0  # bodies of those
    late: int = 0
    unknown: int = 0
    stray: int = 0
    duplicate: int = 0  # a range, or part of one, that is already there
    out_of_range: int = 0
    forged: int = 0
    corrupt: int = 0
    version: int = 0  # of another major version of the handoff
    malformed: int = 0
    denied: int = 0  # connections whose key may not come here
    failed: int = 0  # connections without a right handshake
    crowded: int = 0  # strangers that were hung up on, being too many


def as_dict(counts: SenderCounts | ReceiverCounts) -> dict[str, int]:
    return asdict(counts)


class Counted(Protocol):
    """A sender or a receiver, as far as metrics are concerned."""

    @property
    def counts(self) -> SenderCounts | ReceiverCounts: ...
    @property
    def open_transfers(self) -> int: ...
    @property
    def credit_bytes(self) -> int: ...


def gauges(end: Counted) -> dict[str, float]:
    """All figures of one end by name, for a node's heartbeat."""
    counts = {f"transfer_{name}": float(value) for name, value in as_dict(end.counts).items()}
    now = {"transfers_open": float(end.open_transfers), "transfer_credit_bytes": float(end.credit_bytes)}
    return now | counts
