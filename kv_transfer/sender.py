"""The prefill side of the handoff: asks for room, sends what has been computed as far as credit goes,
commits.

A shell around ``protocol.SENDER``: turns calls, frames and time into its events and carries its actions out.
Knows slots, bytes, peers and ``now``; reads no clock, and knows no page, sequence or request.
"""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import zmq

from kv_transfer import wire
from kv_transfer.events import Done, Granted, Lost, Refused, SenderEvent, TransferStats
from kv_transfer.limits import Timeouts
from kv_transfer.metrics import SenderCounts
from kv_transfer.protocol import SENDER, SENDER_HURRIED, SENDER_OPEN, Action, Event, SenderState
from kv_transfer.slab import Cursor, Part
from kv_transfer.store import PageSource, Slots
from kv_transfer.transfers import Graveyard, Transfer
from kv_transfer.transports.base import Arrived, Peer, Transport
from kv_transfer.wire import Buffer, Message, TransferId
from pagewire.errors import LocalProtocolError, RemoteProtocolError
from pagewire.layout import KVLayout

_EVENT: dict[type[Message], Event] = {
    wire.Reserve: Event.RESERVE,
    wire.Grant: Event.GRANT,
    wire.Refuse: Event.REFUSE,
    wire.Data: Event.DATA,
    wire.Credit: Event.CREDIT,
    wire.Commit: Event.COMMIT,
    wire.Adopted: Event.ADOPTED,
    wire.Abort: Event.ABORT,
}
_SENDING = (SenderState.STREAMING, SenderState.FLUSHING)


class _Frame(NamedTuple):
    """A DATA frame that is made and not yet taken by the transport."""

    part: Part
    checksum: int
    head: bytes
    body: Buffer


@dataclass(slots=True, eq=False, kw_only=True)
class _Outgoing(Transfer[SenderState]):
    num_tokens: int
    payload: bytes  # of RESERVE
    deadline: float
    retry_at: float
    progress_at: float
    have_tokens: int = 0
    allowed: int = 0  # bytes that may have been sent in all
    taken: int = 0  # bytes that the receiver has put away
    sent: int = 0
    cursor: Cursor | None = None  # from GRANT on
    slots: Slots = field(default_factory=lambda: np.empty(0, np.int64))  # [computed]
    frame: _Frame | None = None
    checksums: list[int] = field(default_factory=list)  # by seq
    commit_payload: bytes = b""
    committed_at: float | None = None  # when our node called commit
    hidden_bytes: int = 0
    hidden_s: float = 0.0
    busy_since: float | None = None  # since when bytes are in flight, before commit

    @property
    def drained(self) -> bool:
        return self.cursor is not None and self.cursor.token == self.num_tokens and self.frame is None


class Sender:
    """Drives any number of transfers to any number of receivers, in the thread that calls it.

    ``now`` is seconds on one monotonic clock of the caller's choice, the same in every call.
    """

    def __init__(
        self,
        transport: Transport,
        store: PageSource,
        layout: KVLayout,
        epoch: str,
        timeouts: Timeouts | None = None,
        *,
        poll_bytes: int = 32 << 20,
        tombstones: int = 4096,
    ) -> None:
        """``poll_bytes`` bounds what one poll sends, so that the caller's loop goes on."""
        self._transport = transport
        self._store = store
        self._layout = layout
        self._epoch = epoch
        self._timeouts = timeouts or Timeouts()
        self._poll_bytes = poll_bytes
        self._open: dict[TransferId, _Outgoing] = {}
        self._ended: Graveyard[SenderState] = Graveyard(tombstones)
        self._events: list[SenderEvent] = []
        self._now = 0.0
        self._more = False  # poll_bytes ended the last poll
        self.counts = SenderCounts()

    # --- for the node's loop --------------------------------------------------------------------------------

    @property
    def open_transfers(self) -> int:
        return len(self._open)

    def reserve(
        self, peer_address: str, num_tokens: int, payload: bytes, deadline_s: float, now: float
    ) -> TransferId:
        """Ask the receiver at ``peer_address`` for room; the answer is Granted, Refused or Lost.

        The whole transfer, until adopted, has ``deadline_s`` seconds. Raises LocalProtocolError if
        ``payload`` is larger than a frame may be.
        """
        peer = Peer(peer_address.encode())
        if all(t.peer != peer for t in self._open.values()) and self._transport.lost([peer]):
            self._transport.forget(peer)  # it went away while nothing was open: dial again
        transfer = _Outgoing(
            TransferId(secrets.token_hex(16)),
            peer,
            "",
            SenderState.RESERVING,
            num_tokens=num_tokens,
            payload=payload,
            deadline=now + deadline_s,
            retry_at=now + self._timeouts.retry_s,
            progress_at=now,
        )
        self._now = now
        self._send_reserve(transfer)
        self._open[transfer.id] = transfer
        self.counts.reserved += 1
        return transfer.id

    def publish(self, transfer: TransferId, slots: Slots, computed: int) -> None:
        """Tokens ``[0, computed)`` are in the store now, token i at ``slots[i]``; ``slots`` may be longer.

        They are sent by the next polls. Does nothing if the transfer has ended; raises LocalProtocolError
        before Granted and after commit.
        """
        t = self._called(transfer, Event.DO_PUBLISH)
        if t is None:
            return
        if not len(t.slots) <= computed <= min(t.num_tokens, len(slots)):
            raise LocalProtocolError(f"{computed} computed tokens, after {len(t.slots)} of {t.num_tokens}")
        t.slots = np.array(slots[:computed], dtype=np.int64)

    def retract(self, transfer: TransferId) -> None:
        """The published tokens are no longer in the store: send no more until they are published again.

        What was sent stays sent; the tokens must come out with the same KV. Not allowed after commit.
        """
        t = self._called(transfer, Event.DO_PUBLISH)
        if t is not None:
            t.slots = t.slots[:0]

    def commit(self, transfer: TransferId, payload: bytes, now: float) -> None:
        """All tokens are published; ``payload`` goes along. COMMIT follows the last DATA frame.

        Does nothing if the transfer has ended; raises LocalProtocolError if tokens are missing.
        """
        if (known := self._open.get(transfer)) is not None and len(known.slots) != known.num_tokens:
            raise LocalProtocolError(f"commit with {len(known.slots)} of {known.num_tokens} tokens published")
        if len(payload) > wire.MAX_BODY_BYTES:
            raise LocalProtocolError(f"a payload of {len(payload)} bytes is over the limit")
        t = self._called(transfer, Event.DO_COMMIT)
        if t is None:
            return
        t.commit_payload = payload
        t.committed_at = t.progress_at = now
        if t.busy_since is not None:
            t.hidden_s += now - t.busy_since
            t.busy_since = None

    def abort(self, transfer: TransferId, code: str, reason: str) -> None:
        """End the transfer and tell the peer; no event follows. Does nothing if it has ended."""
        if (t := self._open.get(transfer)) is not None:
            t.blame(code, reason)
            self.counts.aborted += 1
            self._fire(t, Event.DO_ABORT)

    def poll(self, now: float) -> list[SenderEvent]:
        """Take in what has arrived, sweep deadlines, send what may be sent. Never blocks."""
        self._now = now
        for arrived in self._transport.receive():
            self._arrive(arrived)
        self._lose()
        self._sweep()
        self._pump()
        events, self._events = self._events, []
        return events

    def due_in(self, now: float) -> float:
        """Seconds until poll should be called even if none of ``sockets()`` becomes readable."""
        if self._more or self._events:
            return 0.0
        dues = [min(t.retry_at, self._ends_at(t)) for t in self._open.values()]
        return max(0.0, min(dues, default=now + self._timeouts.retry_s) - now)

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to wait on for input while idle, with ``zmq.Poller``. May change at each call."""
        return self._transport.sockets()

    def close(self) -> None:
        """Abort what is open and close the transport."""
        for t in list(self._open):
            self.abort(t, "closed", "the sender is shutting down")
        self._transport.close()

    # --- frames and time into events ------------------------------------------------------------------------

    def _called(self, transfer: TransferId, event: Event) -> _Outgoing | None:
        """Apply a call of our node; None if the transfer has ended."""
        if (t := self._open.get(transfer)) is not None:
            self._fire(t, event)
        return t

    def _arrive(self, arrived: Arrived) -> None:
        try:
            message = wire.decode(arrived.head, arrived.body)
        except RemoteProtocolError:
            self.counts.malformed += 1
            return
        t = self._find(message.transfer, arrived.peer)
        if not t.owns(arrived.peer, message.epoch):
            self.counts.forged += 1
        elif isinstance(message, wire.Grant) and isinstance(t, _Outgoing) and not self._fits(t, message):
            t.blame("bad_grant", "the receiver granted what cannot be used")
            self._fire(t, Event.UNFIT)
        else:
            self._fire(t, _EVENT[type(message)], message)

    def _fits(self, t: _Outgoing, grant: wire.Grant) -> bool:
        cell = self._layout.token_bytes // self._layout.layers
        return grant.have_tokens <= t.num_tokens and cell <= grant.frame_bytes

    def _find(self, transfer: TransferId, peer: Peer) -> Transfer[SenderState]:
        known = self._open.get(transfer) or self._ended.find(transfer)
        return known or Transfer(transfer, peer, "", SenderState.NONE, "unknown", "no such transfer")

    def _lose(self) -> None:
        for peer in self._transport.lost({t.peer for t in self._open.values()}):
            for t in [t for t in self._open.values() if t.peer == peer]:
                t.blame("peer_lost", "the receiving node cannot be reached")
                self._fire(t, Event.PEER_LOST)
            self._transport.forget(peer)

    def _sweep(self) -> None:
        for t in list(self._open.values()):
            if self._now >= self._ends_at(t):
                stalled = self._now < t.deadline
                t.blame("stalled", "no progress at the receiver") if stalled else t.blame(
                    "deadline", "deadline passed"
                )
                self._fire(t, Event.DEADLINE)
            elif self._now >= t.retry_at:
                t.retry_at = self._now + self._timeouts.retry_s
                self._fire(t, Event.RETRY)

    def _ends_at(self, t: _Outgoing) -> float:
        hurried = t.state in SENDER_HURRIED
        return min(t.deadline, t.progress_at + self._timeouts.stall_s) if hurried else t.deadline

    def _pump(self) -> None:
        """Send DATA, one frame a transfer in turn, as far as tokens, credit and the transport go."""
        budget = self._poll_bytes
        turn = deque(t for t in self._open.values() if t.state in _SENDING)
        while turn and budget > 0:
            t = turn.popleft()
            if sent := self._send_data(t):
                budget -= sent
                turn.append(t)
            elif t.drained and t.state is SenderState.FLUSHING:
                self._fire(t, Event.FLUSHED)
        self._more = bool(turn)

    # --- actions --------------------------------------------------------------------------------------------

    def _fire(self, t: Transfer[SenderState], event: Event, message: Message | None = None) -> None:
        rule = SENDER[t.state][event]
        t.state = rule.next
        for action in rule.actions:
            self._act(action, t, event, message)
        if t.state not in SENDER_OPEN and self._open.pop(t.id, None) is not None:
            self._ended.bury(t)

    def _act(self, action: Action, t: Transfer[SenderState], event: Event, message: Message | None) -> None:
        match action:
            case Action.COUNT_UNKNOWN:
                self.counts.unknown += 1
            case Action.COUNT_LATE:
                self.counts.late += 1
            case Action.COUNT_STRAY:
                self.counts.stray += 1
            case Action.SEND_ABORT:
                self._send(t, wire.Abort(t.id, self._epoch, t.code[:64], t.reason[: wire.MAX_REASON]))
            case Action.MISUSE:
                raise LocalProtocolError(f"{event.name} is not allowed while {t.state.name}")
            case _:
                assert isinstance(t, _Outgoing)
                self._act_open(action, t, message)

    def _act_open(self, action: Action, t: _Outgoing, message: Message | None) -> None:
        match action:
            case Action.SEND_RESERVE:
                self.counts.retries += 1
                self._send_reserve(t)
            case Action.SEND_COMMIT:
                self._send_commit(t)
            case Action.TAKE_CREDIT:
                assert isinstance(message, wire.Grant | wire.Credit)
                self._take_credit(t, message)
            case Action.TELL_GRANTED:
                assert isinstance(message, wire.Grant)
                self._granted(t, message)
            case Action.TELL_REFUSED:
                assert isinstance(message, wire.Refuse)
                self.counts.refused += 1
                self._events.append(Refused(t.id, message.code, message.reason, message.retryable))
            case Action.TELL_DONE:
                self.counts.done += 1
                self._events.append(Done(t.id, self._stats(t)))
            case Action.TELL_LOST:
                if isinstance(message, wire.Abort):
                    t.blame(message.code, message.reason)
                self.counts.lost += 1
                self._events.append(Lost(t.id, t.code, t.reason))
            case _:
                raise AssertionError(f"{action} is not a sender's")

    def _granted(self, t: _Outgoing, grant: wire.Grant) -> None:
        t.peer_epoch = grant.epoch
        t.have_tokens = grant.have_tokens
        t.cursor = Cursor(self._layout, grant.have_tokens, grant.frame_bytes)
        self._events.append(Granted(t.id, grant.have_tokens, grant.epoch))

    def _take_credit(self, t: _Outgoing, message: wire.Grant | wire.Credit) -> None:
        t.allowed = max(t.allowed, message.allowed_bytes)
        taken = min(message.taken_bytes, t.sent) if isinstance(message, wire.Credit) else 0
        if taken > t.taken:
            t.taken, t.progress_at = taken, self._now
        if t.taken == t.sent and t.busy_since is not None:
            t.hidden_s += self._now - t.busy_since
            t.busy_since = None

    def _stats(self, t: _Outgoing) -> TransferStats:
        assert t.committed_at is not None
        exposed = self._now - t.committed_at
        return TransferStats(t.sent, len(t.checksums), t.hidden_bytes, t.hidden_s * 1000, exposed * 1000)

    # --- sending --------------------------------------------------------------------------------------------

    def _send(self, t: Transfer[SenderState], message: Message, body: Buffer = b"") -> bool:
        return self._transport.send(t.peer, wire.encode(message, body), body)

    def _send_reserve(self, t: _Outgoing) -> None:
        left = max(1, round((t.deadline - self._now) * 1000))
        check = wire.checksum(t.payload)
        self._send(t, wire.Reserve(t.id, self._epoch, t.num_tokens, self._layout, left, check), t.payload)

    def _send_commit(self, t: _Outgoing) -> None:
        total = wire.digest(t.checksums)
        check = wire.checksum(t.commit_payload)
        t.retry_at = self._now + self._timeouts.retry_s
        self._send(
            t, wire.Commit(t.id, self._epoch, len(t.checksums), t.sent, total, check), t.commit_payload
        )

    def _send_data(self, t: _Outgoing) -> int:
        """Send the next frame of ``t`` if there is one and it may go. Returns the bytes sent."""
        frame = t.frame or self._make_frame(t)
        if frame is None:
            return 0
        size = len(frame.body)
        if not self._transport.send(t.peer, frame.head, frame.body):
            t.frame = frame  # the transport is full: the same frame goes first next time
            return 0
        assert t.cursor is not None
        t.frame = None
        t.cursor.advance(frame.part)
        t.checksums.append(frame.checksum)
        self._account(t, size)
        return size

    def _make_frame(self, t: _Outgoing) -> _Frame | None:
        assert t.cursor is not None, "only granted transfers send"
        part = t.cursor.next(len(t.slots), t.allowed - t.sent, idle=t.sent == t.taken)
        if part is None:
            return None
        body = memoryview(
            self._store.read(
                t.slots[part.token_start : part.token_stop], slice(part.layer_start, part.layer_stop)
            )
        ).cast("B")
        assert len(body) == part.nbytes(self._layout), "the store reads whole slabs"
        check = wire.checksum(body)
        head = wire.encode(wire.Data(t.id, self._epoch, len(t.checksums), *part, checksum=check), body)
        return _Frame(part, check, head, body)

    def _account(self, t: _Outgoing, size: int) -> None:
        self.counts.frames += 1
        self.counts.bytes += size
        if t.committed_at is None:
            t.hidden_bytes += size
            if t.busy_since is None:
                t.busy_since = self._now
        t.sent += size
