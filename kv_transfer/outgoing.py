"""One transfer at the sender: what of it is computed, allowed, sent and taken, and which frame comes next.

Pure arithmetic: knows token and byte counts, slots as numbers and ``now``; knows no store, socket or table
of states.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kv_transfer import wire
from kv_transfer.events import TransferStats
from kv_transfer.protocol import SenderState
from kv_transfer.slab import Cursor, Part
from kv_transfer.store import Slots
from kv_transfer.transfers import OpenTransfer
from pagewire.errors import LocalProtocolError
from pagewire.layout import KVLayout


@dataclass(slots=True)
class Overlap:
    """How much of a transfer was hidden behind the computation: what moved before commit was called."""

    bytes: int = 0
    seconds: float = 0.0
    busy_since: float | None = None  # since when bytes are in flight
    committed_at: float | None = None

    def sent(self, size: int, now: float) -> None:
        if self.committed_at is None:
            self.bytes += size
            self.busy_since = now if self.busy_since is None else self.busy_since

    def idle(self, now: float) -> None:
        """Nothing is in flight any more."""
        if self.busy_since is not None:
            self.seconds += now - self.busy_since
            self.busy_since = None

    def commit(self, now: float) -> None:
        self.idle(now)
        self.committed_at = now


@dataclass(slots=True, eq=False, kw_only=True)
class Outgoing(OpenTransfer[SenderState]):
    """``taken`` <= ``sent`` <= ``allowed``, in bytes since the transfer's start.

    ``slots`` [computed] are those of the published tokens. Tokens below ``cursor.token`` are sent; that may
    be more than are published, after a retraction.
    """

    layout: KVLayout
    num_tokens: int
    payload: bytes  # of RESERVE
    commit_payload: bytes = b""
    allowed: int = 0
    sent: int = 0
    taken: int = 0
    cursor: Cursor | None = None  # from GRANT on
    slots: Slots = field(default_factory=lambda: np.empty(0, np.int64))
    checksums: list[int] = field(default_factory=list)  # of the frames that were sent, by seq
    overlap: Overlap = field(default_factory=Overlap)

    @property
    def drained(self) -> bool:
        return self.cursor is not None and self.cursor.token == self.num_tokens

    # --- what our node says ---------------------------------------------------------------------------------

    def publish(self, slots: Slots, computed: int) -> None:
        if not len(self.slots) <= computed <= min(self.num_tokens, len(slots)):
            have = len(self.slots)
            raise LocalProtocolError(f"{computed} computed tokens, after {have} of {self.num_tokens}")
        self.slots = np.array(slots[:computed], dtype=np.int64)

    def retract(self) -> None:
        self.slots = self.slots[:0]

    def check_published(self) -> None:
        if len(self.slots) != self.num_tokens:
            have = f"{len(self.slots)} of {self.num_tokens}"
            raise LocalProtocolError(f"commit with {have} tokens published")

    def commit(self, payload: bytes, now: float) -> None:
        self.commit_payload = payload
        self.progress_at = now
        self.overlap.commit(now)

    # --- what the receiver says -----------------------------------------------------------------------------

    def fits(self, grant: wire.Grant) -> bool:
        cell = self.layout.token_bytes // self.layout.layers
        return grant.have_tokens <= self.num_tokens and cell <= grant.frame_bytes

    def granted(self, grant: wire.Grant) -> None:
        self.peer_epoch = grant.epoch
        self.cursor = Cursor(self.layout, grant.have_tokens, grant.frame_bytes)

    def take_credit(self, message: wire.Grant | wire.Credit, now: float) -> None:
        self.allowed = max(self.allowed, message.allowed_bytes)
        taken = min(message.taken_bytes, self.sent) if isinstance(message, wire.Credit) else 0
        if taken > self.taken:
            self.taken, self.progress_at = taken, now
        if self.taken == self.sent:
            self.overlap.idle(now)

    # --- what goes out --------------------------------------------------------------------------------------

    def next_part(self) -> Part | None:
        """What the next DATA carries; None if it has to wait for tokens or credit."""
        assert self.cursor is not None, "only granted transfers send"
        return self.cursor.next(len(self.slots), self.allowed - self.sent, idle=self.sent == self.taken)

    def sent_part(self, part: Part, checksum: int, now: float) -> None:
        assert self.cursor is not None
        self.cursor.advance(part)
        self.checksums.append(checksum)
        size = part.nbytes(self.layout)
        self.sent += size
        self.overlap.sent(size, now)

    def reserve_message(self, epoch: str, now: float) -> wire.Reserve:
        left = max(1, round((self.deadline - now) * 1000))
        check = wire.checksum(self.payload)
        return wire.Reserve(self.id, epoch, self.num_tokens, self.layout, left, check)

    def data_message(self, epoch: str, part: Part, checksum: int) -> wire.Data:
        return wire.Data(self.id, epoch, len(self.checksums), *part, checksum=checksum)

    def commit_message(self, epoch: str) -> wire.Commit:
        total, check = wire.digest(self.checksums), wire.checksum(self.commit_payload)
        return wire.Commit(self.id, epoch, len(self.checksums), self.sent, total, check)

    def stats(self, now: float) -> TransferStats:
        overlap = self.overlap
        assert overlap.committed_at is not None
        hidden_ms, exposed_ms = overlap.seconds * 1000, (now - overlap.committed_at) * 1000
        return TransferStats(self.sent, len(self.checksums), overlap.bytes, hidden_ms, exposed_ms)
