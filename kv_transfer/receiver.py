"""The decode side of the handoff: grants room, checks every frame and only then writes it, says when all is
there.

A shell around ``protocol.RECEIVER``: turns calls, frames and time into its events and carries its actions
out. Knows slots, bytes, peers and ``now``; reads no clock, and knows no page, sequence or request. The
receiver owns every write: no peer can reach the pages, and a late, repeated, forged or corrupt frame
changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import zmq

from kv_transfer import wire
from kv_transfer.credits import CreditPool, Window
from kv_transfer.events import Dropped, Landed, ReceiverEvent, Reserved
from kv_transfer.limits import Limits, Timeouts
from kv_transfer.metrics import ReceiverCounts
from kv_transfer.protocol import (
    RECEIVER,
    RECEIVER_HURRIED,
    RECEIVER_OPEN,
    WRITABLE,
    Action,
    Event,
    ReceiverState,
)
from kv_transfer.slab import Coverage, Part
from kv_transfer.store import PageSink, Slots
from kv_transfer.transfers import Graveyard, Transfer
from kv_transfer.transports.base import Arrived, Listener, Peer
from kv_transfer.wire import Buffer, Message, TransferId
from pagewire.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from pagewire.layout import KVLayout


@dataclass(slots=True, eq=False)
class _Landing:
    """Where a granted transfer's KV goes and what of it is there."""

    slots: Slots  # [num_tokens]; those below have_tokens are never written
    have_tokens: int
    window: Window
    coverage: Coverage
    checksums: dict[int, int] = field(default_factory=dict)  # by seq


@dataclass(slots=True, eq=False, kw_only=True)
class _Incoming(Transfer[ReceiverState]):
    num_tokens: int
    payload: bytes  # of RESERVE, until our node was told
    deadline: float
    progress_at: float
    retry_at: float
    landing: _Landing | None = None  # from grant on
    commit: wire.Commit | None = None
    commit_payload: bytes = b""


class Receiver:
    """Drives any number of transfers from any number of senders, in the thread that calls it.

    ``now`` is seconds on one monotonic clock of the caller's choice, the same in every call.
    """

    def __init__(
        self,
        transport: Listener,
        store: PageSink,
        layout: KVLayout,
        epoch: str,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Raises ConfigError if not even one layer of one token fits a frame."""
        self._transport = transport
        self._store = store
        self._layout = layout
        self._epoch = epoch
        self._limits = limits or Limits()
        self._timeouts = timeouts or Timeouts()
        self._credits = CreditPool(self._limits)
        self._open: dict[TransferId, _Incoming] = {}
        self._ended: Graveyard[ReceiverState] = Graveyard(self._limits.tombstones)
        self._events: list[ReceiverEvent] = []
        self._now = 0.0
        self._probe_at = 0.0
        self.counts = ReceiverCounts()
        if layout.token_bytes // layout.layers > self._limits.frame_bytes:
            raise ConfigError("frame_bytes is less than one layer of one token")

    # --- for the node's loop --------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """What senders dial."""
        return self._transport.address

    @property
    def open_transfers(self) -> int:
        return len(self._open)

    @property
    def credit_bytes(self) -> int:
        """Bytes that all open transfers together may have under way now."""
        return self._credits.used

    def grant(self, transfer: TransferId, have_tokens: int, slots: Slots) -> bool:
        """Give it room: token i of ``num_tokens`` goes to ``slots[i]``; the first ``have_tokens`` are there
        already.

        The slots belong to the transfer until Landed or Dropped. False if it has ended meanwhile (Dropped
        was, or will be, told); raises LocalProtocolError if it was already granted or the numbers cannot
        be.
        """
        t = self._open.get(transfer)
        if t is None:
            return False
        if not 0 <= have_tokens <= t.num_tokens or len(slots) != t.num_tokens:
            raise LocalProtocolError(f"{len(slots)} slots, {have_tokens} held, for {t.num_tokens} tokens")
        if t.landing is not None:
            raise LocalProtocolError("granted twice")
        need = (t.num_tokens - have_tokens) * self._layout.token_bytes
        coverage = Coverage(self._layout, have_tokens, t.num_tokens)
        own = np.array(slots, dtype=np.int64)
        t.landing = _Landing(own, have_tokens, self._credits.open(need), coverage)
        self._fire(t, Event.DO_GRANT)
        return True

    def refuse(self, transfer: TransferId, code: str, reason: str, *, retryable: bool) -> None:
        """Say no to a reservation. Does nothing if it has ended; no event follows."""
        if (t := self._open.get(transfer)) is not None:
            t.blame(code, reason, retryable=retryable)
            self._fire(t, Event.DO_REFUSE)

    def adopt(self, transfer: TransferId) -> bool:
        """Take over what has landed and tell the sender. False if it was dropped after Landed was told."""
        if (t := self._open.get(transfer)) is None:
            return False
        self._fire(t, Event.DO_ADOPT)
        self.counts.adopted += 1
        return True

    def abort(self, transfer: TransferId, code: str, reason: str) -> None:
        """End the transfer and tell the peer; no event follows. Does nothing if it has ended."""
        if (t := self._open.get(transfer)) is not None:
            t.blame(code, reason)
            self.counts.aborted += 1
            self._fire(t, Event.DO_ABORT)

    def poll(self, now: float) -> list[ReceiverEvent]:
        """Take in what has arrived, write what is good, sweep deadlines. Never blocks."""
        self._now = now
        for arrived in self._transport.receive():
            self._arrive(arrived)
        self._lose()
        self._sweep()
        events, self._events = self._events, []
        return events

    def due_in(self, now: float) -> float:
        """Seconds until poll should be called even if none of ``sockets()`` becomes readable."""
        if self._events:
            return 0.0
        dues = [min(t.retry_at, self._ends_at(t), self._probe_at) for t in self._open.values()]
        return max(0.0, min(dues, default=now + self._timeouts.retry_s) - now)

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to wait on for input while idle, with ``zmq.Poller``. May change at each call."""
        return self._transport.sockets()

    def close(self) -> None:
        """Abort what is open and close the transport."""
        for t in list(self._open):
            self.abort(t, "closed", "the receiver is shutting down")
        self._transport.close()

    # --- frames and time into events ------------------------------------------------------------------------

    def _arrive(self, arrived: Arrived) -> None:
        try:
            message = wire.decode(arrived.head, arrived.body)
        except RemoteProtocolError:
            self.counts.malformed += 1
            return
        t = self._find(message.transfer, arrived.peer)
        if not t.owns(arrived.peer, message.epoch):
            self.counts.forged += 1
            return
        match message:
            case wire.Reserve() if t.state is ReceiverState.NONE:
                self._reserve(message, arrived)
            case wire.Data():
                self._data(t, message, arrived.body)
            case wire.Commit():
                self._fire(t, Event.COMMIT, message, arrived.body)
                self._settle(t)
            case _:
                self._fire(t, Event[type(message).__name__.upper()], message)

    def _find(self, transfer: TransferId, peer: Peer) -> Transfer[ReceiverState]:
        known = self._open.get(transfer) or self._ended.find(transfer)
        return known or Transfer(
            transfer, peer, "", ReceiverState.NONE, "unknown", "no such transfer", retryable=True
        )

    def _reserve(self, message: wire.Reserve, arrived: Arrived) -> None:
        t = _Incoming(
            message.transfer,
            arrived.peer,
            message.epoch,
            ReceiverState.NONE,
            num_tokens=message.num_tokens,
            payload=bytes(arrived.body),
            deadline=self._now + message.deadline_ms / 1000,
            progress_at=self._now,
            retry_at=self._now + self._timeouts.retry_s,
        )
        unfit = self._judge(t, message)
        self._open[t.id] = t
        self._fire(t, Event.UNFIT if unfit else Event.RESERVE)

    def _judge(self, t: _Incoming, message: wire.Reserve) -> bool:
        """True, with the blame put on ``t``, if its reservation is not worth our node's time."""
        if wrong := self._layout.mismatch(message.layout):
            t.blame("layout_mismatch", f"the nodes' KV layouts differ: {wrong}")
        elif t.num_tokens > self._limits.max_tokens:
            t.blame("too_long", f"{t.num_tokens} tokens; at most {self._limits.max_tokens} fit")
        elif len(self._open) >= self._limits.max_open:
            t.blame("busy", f"{len(self._open)} transfers are open", retryable=True)
        return bool(t.code)

    def _data(self, t: Transfer[ReceiverState], message: wire.Data, body: Buffer) -> None:
        if t.state not in WRITABLE:
            self._fire(t, Event.DATA, message, body)
            return
        assert isinstance(t, _Incoming)
        if self._acceptable(t, message, body):
            good = wire.checksum(body) == message.checksum
            if not good:
                t.blame("corrupt", "a frame's bytes do not match its checksum")
            self._fire(t, Event.DATA if good else Event.CORRUPT, message, body)
            self._settle(t)

    def _acceptable(self, t: _Incoming, message: wire.Data, body: Buffer) -> bool:
        """True if the frame has a place in this transfer that is still empty. Otherwise it is counted."""
        assert t.landing is not None
        part = _part(message)
        if (
            not t.landing.coverage.contains(part)
            or len(body) != part.nbytes(self._layout)
            or len(body) > t.landing.window.held
        ):
            self.counts.out_of_range += 1
        elif message.seq in t.landing.checksums or t.landing.coverage.overlaps(part):
            self.counts.duplicate += 1
        else:
            return True
        return False

    def _settle(self, t: Transfer[ReceiverState]) -> None:
        """After COMMIT: is everything there, and does it agree?"""
        if t.state is not ReceiverState.SEALING:
            return
        assert isinstance(t, _Incoming)
        assert t.landing is not None
        assert t.commit is not None
        if t.landing.coverage.missing and len(t.landing.checksums) < t.commit.frames:
            return
        if self._agrees(t.landing, t.commit):
            self._fire(t, Event.COMPLETE)
        else:
            t.blame("mismatch", "what arrived is not what the sender committed")
            self._fire(t, Event.MISMATCH)

    def _agrees(self, landing: _Landing, commit: wire.Commit) -> bool:
        frames = len(landing.checksums)
        return (
            landing.coverage.missing == 0
            and commit.frames == frames
            and commit.bytes == landing.window.taken
            and landing.checksums.keys() == set(range(frames))
            and commit.digest == wire.digest([landing.checksums[seq] for seq in range(frames)])
        )

    def _lose(self) -> None:
        if self._now < self._probe_at:
            return
        self._probe_at = self._now + self._timeouts.probe_s
        for peer in self._transport.lost({t.peer for t in self._open.values()}):
            for t in [t for t in self._open.values() if t.peer == peer]:
                t.blame("peer_lost", "the sending node cannot be reached")
                self._fire(t, Event.PEER_LOST)

    def _sweep(self) -> None:
        for t in list(self._open.values()):
            if self._now >= self._ends_at(t):
                stalled = self._now < t.deadline
                t.blame("stalled", "no progress") if stalled else t.blame("deadline", "deadline passed")
                self._fire(t, Event.DEADLINE)
            elif self._now >= t.retry_at:
                t.retry_at = self._now + self._timeouts.retry_s
                self._fire(t, Event.RETRY)

    def _ends_at(self, t: _Incoming) -> float:
        hurried = t.state in RECEIVER_HURRIED
        return min(t.deadline, t.progress_at + self._timeouts.stall_s) if hurried else t.deadline

    # --- actions --------------------------------------------------------------------------------------------

    def _fire(
        self,
        t: Transfer[ReceiverState],
        event: Event,
        message: Message | None = None,
        body: Buffer = b"",
    ) -> None:
        rule = RECEIVER[t.state][event]
        t.state = rule.next
        for action in rule.actions:
            self._act(action, t, event, message, body)
        if t.state not in RECEIVER_OPEN and (gone := self._open.pop(t.id, None)) is not None:
            if gone.landing is not None:
                self._credits.close(gone.landing.window)
            self._ended.bury(t)

    def _act(
        self, action: Action, t: Transfer[ReceiverState], event: Event, message: Message | None, body: Buffer
    ) -> None:
        match action:
            case Action.COUNT_UNKNOWN:
                self.counts.unknown += 1
            case Action.COUNT_LATE:
                self.counts.late += 1
            case Action.COUNT_STRAY:
                self.counts.stray += 1
            case Action.COUNT_CORRUPT:
                self.counts.corrupt += 1
            case Action.SEND_ABORT:
                self._send(t, wire.Abort(t.id, self._epoch, t.code[:64], t.reason[: wire.MAX_REASON]))
            case Action.SEND_REFUSE:
                self.counts.refused += event is not Event.RESERVE  # else it is said again
                reason = t.reason[: wire.MAX_REASON]
                self._send(t, wire.Refuse(t.id, self._epoch, t.code[:64], reason, t.retryable))
            case Action.SEND_ADOPTED:
                self._send(t, wire.Adopted(t.id, self._epoch))
            case Action.MISUSE:
                raise LocalProtocolError(f"{event.name} is not allowed while {t.state.name}")
            case _:
                assert isinstance(t, _Incoming)
                self._act_open(action, t, message, body)

    def _act_open(self, action: Action, t: _Incoming, message: Message | None, body: Buffer) -> None:
        match action:
            case Action.SEND_GRANT:
                self._send_grant(t)
            case Action.SEND_CREDIT:
                self._send_credit(t)
            case Action.WRITE:
                assert isinstance(message, wire.Data)
                self._write(t, message, body)
            case Action.KEEP_COMMIT:
                assert isinstance(message, wire.Commit)
                t.commit, t.commit_payload, t.progress_at = message, bytes(body), self._now
            case Action.TELL_RESERVED:
                self.counts.reserved += 1
                peer = t.peer.decode("ascii", "backslashreplace")
                self._events.append(Reserved(t.id, peer, t.num_tokens, t.payload, t.deadline))
                t.payload = b""
            case Action.TELL_LANDED:
                self.counts.landed += 1
                t.progress_at = self._now
                self._events.append(Landed(t.id, t.commit_payload))
            case Action.TELL_DROPPED:
                if isinstance(message, wire.Abort):
                    t.blame(message.code, message.reason)
                self.counts.dropped += 1
                self._events.append(Dropped(t.id, t.code, t.reason))
            case _:
                raise AssertionError(f"{action} is not a receiver's")

    def _write(self, t: _Incoming, message: wire.Data, body: Buffer) -> None:
        assert t.landing is not None
        part = _part(message)
        own = t.landing.slots[part.token_start : part.token_stop]
        self._store.write(own, slice(part.layer_start, part.layer_stop), body)
        t.landing.coverage.add(part)
        t.landing.checksums[message.seq] = message.checksum
        self._credits.take(t.landing.window, len(body))
        self.counts.frames += 1
        self.counts.bytes += len(body)
        t.progress_at = self._now

    # --- sending --------------------------------------------------------------------------------------------

    def _send(self, t: Transfer[ReceiverState], message: Message) -> bool:
        return self._transport.send(t.peer, wire.encode(message), b"")

    def _send_grant(self, t: _Incoming) -> None:
        assert t.landing is not None
        t.retry_at = self._now + self._timeouts.retry_s
        self._send(
            t,
            wire.Grant(
                t.id,
                self._epoch,
                t.landing.have_tokens,
                t.landing.window.allowed,
                self._limits.frame_bytes,
            ),
        )

    def _send_credit(self, t: _Incoming) -> None:
        """Totals, so that a CREDIT that is not taken now is made good by the next."""
        assert t.landing is not None
        window = t.landing.window
        sent = self._send(t, wire.Credit(t.id, self._epoch, window.taken, window.allowed))
        t.retry_at = self._now + (self._timeouts.retry_s if sent else 0.0)


def _part(message: wire.Data) -> Part:
    return Part(message.token_start, message.token_stop, message.layer_start, message.layer_stop)
