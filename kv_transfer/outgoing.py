"""One transfer at the sender: what of it is computed, allowed, sent and taken, and which frame comes next.

Pure arithmetic: knows token and byte counts, slots as numbers and ``now``; knows no store, socket or table
of states.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kv_transfer import wire
from kv_transfer.events import TransferStats
from kv_transfer.protocol import SenderState
from kv_transfer.slab import Cursor, Part
from kv_transfer.store import Copy, Mark, Slots
from kv_transfer.transfers import OpenTransfer
from kv_transfer.transports.direct import DirectCopy
from pagewire.errors import LocalProtocolError
from pagewire.layout import KVLayout


@dataclass(slots=True)
class Overlap:
    """What of a transfer was hidden behind the computation: what was sent before commit was called."""

    bytes: int = 0
    seconds: float = 0.0  # that this end worked on them
    committed_at: float | None = None

    def sent(self, size: int, seconds: float) -> None:
        if self.committed_at is None:
            self.bytes += size
            self.seconds += seconds


@dataclass(slots=True, eq=False, kw_only=True)
class Outgoing(OpenTransfer[SenderState]):
    """``taken`` <= ``sent`` <= ``allowed``, in bytes since the transfer's start.

    ``published`` [layers] counts the tokens that our node gave, layer by layer, and ``slots`` are where they
    lie. ``ready`` [layers] of them are computed; those that are ``coming`` a device has still to reach. What
    the cursor has behind it is sent or staged; after a retraction that may be more than is published.
    """

    layout: KVLayout
    num_tokens: int
    payload: bytes  # of RESERVE
    group: int  # layers that go together
    published: list[int]
    ready: list[int]
    coming: deque[tuple[int, int, Mark]] = field(default_factory=deque)  # tokens, layers, from when on
    commit_payload: bytes = b""
    allowed: int = 0
    sent: int = 0
    taken: int = 0
    cursor: Cursor | None = None  # from GRANT on
    slots: Slots = field(default_factory=lambda: np.empty(0, np.int64))
    staged: deque[tuple[Part, Copy | DirectCopy]] = field(
        default_factory=deque
    )  # being read, in the order of sending
    checksums: list[int] = field(default_factory=list)  # of the frames that were sent, by seq
    overlap: Overlap = field(default_factory=Overlap)

    @property
    def drained(self) -> bool:
        return self.cursor is not None and self.cursor.done and not self.staged

    # --- what our node says ---------------------------------------------------------------------------------

    def publish(self, slots: Slots, computed: int, layers: int, mark: Callable[[], Mark]) -> None:
        known = 0 < layers <= self.layout.layers
        if not known or not max(self.published[:layers]) <= computed <= min(self.num_tokens, len(slots)):
            have = f"after {max(self.published)} of {self.num_tokens}"
            raise LocalProtocolError(f"{computed} computed tokens in {layers} layers, {have}")
        self.slots = np.array(slots[:computed], dtype=np.int64)
        if computed > self.published[layers - 1]:
            self.coming.append((computed, layers, mark()))
        self.published[:layers] = [computed] * layers

    def look(self) -> None:
        """What is computed by now is ready."""
        while self.coming and self.coming[0][2].passed():
            computed, layers, _ = self.coming.popleft()
            self.ready[:layers] = [computed] * layers

    def retract(self) -> None:
        self.unstage()
        self.coming.clear()
        self.published = [0] * self.layout.layers
        self.ready = [0] * self.layout.layers
        self.slots = self.slots[:0]

    def check_published(self) -> None:
        if min(self.published) != self.num_tokens:
            have = f"{min(self.published)} of {self.num_tokens}"
            raise LocalProtocolError(f"commit with {have} tokens published")

    def commit(self, payload: bytes, now: float) -> None:
        self.commit_payload = payload
        self.progress_at = now
        self.overlap.committed_at = now

    # --- what the receiver says -----------------------------------------------------------------------------

    def fits(self, grant: wire.Grant) -> bool:
        cell = self.layout.token_bytes // self.layout.layers
        return grant.have_tokens <= self.num_tokens and cell <= grant.frame_bytes

    def granted(self, grant: wire.Grant) -> None:
        self.peer_epoch = grant.epoch
        self.cursor = Cursor(self.layout, grant.have_tokens, self.num_tokens, grant.frame_bytes, self.group)

    def take_credit(self, message: wire.Grant | wire.Credit, now: float) -> None:
        self.allowed = max(self.allowed, message.allowed_bytes)
        taken = min(message.taken_bytes, self.sent) if isinstance(message, wire.Credit) else 0
        if taken > self.taken:
            self.taken, self.progress_at = taken, now

    # --- what goes out --------------------------------------------------------------------------------------

    def next_part(self) -> Part | None:
        """What the next DATA carries; None if it has to wait for tokens or credit."""
        assert self.cursor is not None, "only granted transfers send"
        staged = sum(part.nbytes(self.layout) for part, _ in self.staged)
        idle = not staged and self.sent == self.taken
        return self.cursor.next(self.ready, self.allowed - self.sent - staged, idle=idle)

    def stage(self, part: Part, copy: Copy | DirectCopy) -> None:
        """``copy`` is reading ``part``."""
        assert self.cursor is not None
        self.cursor.advance(part)
        self.staged.append((part, copy))

    def unstage(self) -> None:
        """What is being read will not be sent from there; it is read again when it is tried again."""
        while self.staged:
            part, copy = self.staged.pop()
            copy.drop()
            assert self.cursor is not None
            self.cursor.retreat(part)

    def sent_part(self, checksum: int, seconds: float) -> None:
        """The first of what is staged is out, after so many ``seconds`` of work."""
        part, _ = self.staged.popleft()
        self.checksums.append(checksum)
        size = part.nbytes(self.layout)
        self.sent += size
        self.overlap.sent(size, seconds)

    def reserve_message(self, epoch: str, now: float) -> wire.Reserve:
        left = max(1, round((self.deadline - now) * 1000))
        check = wire.checksum(self.payload)
        return wire.Reserve(self.id, epoch, self.num_tokens, self.layout, left, check)

    def data_message(self, epoch: str, part: Part, checksum: int) -> wire.Data:
        return wire.Data(self.id, epoch, len(self.checksums), *part, checksum=checksum)

    def commit_message(self, epoch: str) -> wire.Commit:
        total, check = wire.digest(self.checksums), wire.checksum(self.commit_payload)
        return wire.Commit(self.id, epoch, len(self.checksums), self.sent, total, check)

    def stats(self, adopted: wire.Adopted, now: float) -> TransferStats:
        overlap = self.overlap
        assert overlap.committed_at is not None
        theirs = adopted.landing_us / 1000 * overlap.bytes / max(1, self.sent)
        hidden_ms, exposed_ms = overlap.seconds * 1000 + theirs, (now - overlap.committed_at) * 1000
        return TransferStats(self.sent, len(self.checksums), overlap.bytes, hidden_ms, exposed_ms)
