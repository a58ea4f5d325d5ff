"""The decode side of the handoff: grants room, checks every frame and only then writes it, says when all is
there.

A shell around ``protocol.RECEIVER``: turns calls, frames and time into its events. Which frames have a place
in a transfer is in ``incoming``, what is done about an event in ``receiver_actions``. Knows slots, bytes,
peers and ``now``; decides by no clock of its own, and knows no page, sequence or request. The receiver owns
every write: no peer can reach the pages, and a late, repeated, forged or corrupt frame changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import zmq

from kv_transfer import wire
from kv_transfer.events import ReceiverEvent
from kv_transfer.incoming import Incoming, Landing, Place
from kv_transfer.limits import Limits, Timeouts
from kv_transfer.protocol import WRITABLE, Event, ReceiverState
from kv_transfer.receiver_actions import ReceiverActions
from kv_transfer.slab import Coverage
from kv_transfer.store import PageSink, Slots
from kv_transfer.transfers import Transfer
from kv_transfer.transports.base import Arrived, Listener, Peer
from kv_transfer.wire import Body, Buffer, TransferId
from pagewire.audit import Audit
from pagewire.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from pagewire.layout import KVLayout

log = logging.getLogger("pagewire.handoff")


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
        *,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``stopwatch`` gives seconds; it measures work and decides nothing. Raises ConfigError if not even
        one layer of one token fits a frame.
        """
        self._transport = transport
        self._layout = layout
        self._limits = limits or Limits()
        self._timeouts = timeouts or Timeouts()
        self._stopwatch = stopwatch
        self._began = 0.0  # when the frame in hand was begun to be received
        self._probe_at = 0.0
        self._audit = Audit(log)
        self._acts = ReceiverActions(transport, store, epoch, self._limits, self._timeouts)
        self._transfers = self._acts.transfers
        self.counts = self._acts.counts
        if layout.token_bytes // layout.layers > self._limits.frame_bytes:
            raise ConfigError("frame_bytes is less than one layer of one token")

    # --- for the node's loop --------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """What senders dial."""
        return self._transport.address

    @property
    def open_transfers(self) -> int:
        return len(self._transfers)

    @property
    def credit_bytes(self) -> int:
        """Bytes that all open transfers together may have under way now."""
        return self._acts.credits.used

    def grant(self, transfer: TransferId, have_tokens: int, slots: Slots) -> bool:
        """Give it room: token i of ``num_tokens`` goes to ``slots[i]``; the first ``have_tokens`` are there
        already.

        The slots belong to the transfer until Landed or Dropped. False if it has ended meanwhile (Dropped
        was, or will be, told); raises LocalProtocolError if it was already granted or the numbers cannot
        be.
        """
        t = self._transfers.get(transfer)
        if t is None:
            return False
        if not 0 <= have_tokens <= t.num_tokens or len(slots) != t.num_tokens:
            raise LocalProtocolError(f"{len(slots)} slots, {have_tokens} held, for {t.num_tokens} tokens")
        if t.landing is not None:
            raise LocalProtocolError("granted twice")
        need = (t.num_tokens - have_tokens) * self._layout.token_bytes
        coverage = Coverage(self._layout, have_tokens, t.num_tokens)
        own = np.array(slots, dtype=np.int64)
        t.landing = Landing(self._layout, own, have_tokens, self._acts.credits.open(need), coverage)
        self._acts.fire(t, Event.DO_GRANT)
        return True

    def refuse(self, transfer: TransferId, code: str, reason: str, *, retryable: bool) -> None:
        """Say no to a reservation. Does nothing if it has ended; no event follows."""
        if (t := self._transfers.get(transfer)) is not None:
            t.blame(code, reason, retryable=retryable)
            self._acts.fire(t, Event.DO_REFUSE)

    def adopt(self, transfer: TransferId) -> bool:
        """Take over what has landed and tell the sender. False if it was dropped after Landed was told."""
        if (t := self._transfers.get(transfer)) is None:
            return False
        self._acts.fire(t, Event.DO_ADOPT)
        self.counts.adopted += 1
        return True

    def abort(self, transfer: TransferId, code: str, reason: str) -> None:
        """End the transfer and tell the peer; no event follows. Does nothing if it has ended."""
        if (t := self._transfers.get(transfer)) is not None:
            t.blame(code, reason)
            self.counts.aborted += 1
            self._acts.fire(t, Event.DO_ABORT)

    def poll(self, now: float) -> list[ReceiverEvent]:
        """Take in what has arrived, write what is good, sweep deadlines. Never blocks, but for a device that
        still copies what is to be written.
        """
        self._acts.now = now
        self._began = self._stopwatch()
        for arrived in self._transport.receive():
            self._arrive(arrived)
            self._began = self._stopwatch()
        self._lose()
        for t, event in self._transfers.overdue(now):
            self._acts.fire(t, event)
        self.counts.denied, self.counts.failed, self.counts.crowded = self._transport.refusals
        events, self._acts.events = self._acts.events, []
        return events

    def due_in(self, now: float) -> float:
        """Seconds until poll should be called even if none of ``sockets()`` becomes readable."""
        if self._acts.events:
            return 0.0
        due = self._transfers.due_at(otherwise=now + self._timeouts.retry_s)
        return max(0.0, (min(due, self._probe_at) if self._transfers else due) - now)

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to wait on for input while idle, with ``zmq.Poller``. May change at each call."""
        return self._transport.sockets()

    def close(self) -> None:
        """Abort what is open and close the transport."""
        for t in self._transfers:
            self.abort(t.id, "closed", "the receiver is shutting down")
        self._transport.close()

    # --- frames and time into events ------------------------------------------------------------------------

    def _arrive(self, arrived: Arrived) -> None:
        try:
            message = wire.decode(arrived.head, arrived.body)
        except wire.OtherVersion as error:
            self.counts.version += 1
            self._audit.note(self._acts.now, f"refused a frame of {self._named(arrived)}: {error}")
            return
        except RemoteProtocolError as error:
            self.counts.malformed += 1
            self._audit.note(self._acts.now, f"refused a frame of {self._named(arrived)}: {error}")
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
                self._acts.fire(t, Event.COMMIT, message, arrived.body)
                self._settle(t)
            case _:
                self._acts.fire(t, Event[message.name], message)

    @staticmethod
    def _named(arrived: Arrived) -> str:
        return arrived.peer.decode("ascii", "backslashreplace")

    def _find(self, transfer: TransferId, peer: Peer) -> Transfer[ReceiverState]:
        unknown = Transfer(transfer, peer, "", ReceiverState.NONE, "unknown", "no such transfer")
        return self._transfers.find(transfer) or unknown

    def _reserve(self, message: wire.Reserve, arrived: Arrived) -> None:
        assert isinstance(arrived.body, Buffer), "decode lets no other payload through"
        t = Incoming(
            message.transfer,
            arrived.peer,
            message.epoch,
            ReceiverState.NONE,
            num_tokens=message.num_tokens,
            payload=bytes(arrived.body),
            deadline=self._acts.now + message.deadline_ms / 1000,
            progress_at=self._acts.now,
            retry_at=self._acts.now + self._timeouts.retry_s,
        )
        unfit = self._judge(t, message)
        self._transfers.add(t)
        self._acts.fire(t, Event.UNFIT if unfit else Event.RESERVE)

    def _judge(self, t: Incoming, message: wire.Reserve) -> bool:
        """True, with the blame put on ``t``, if its reservation is not worth our node's time."""
        if wrong := self._layout.mismatch(message.layout):
            t.blame("layout_mismatch", f"the nodes' KV layouts differ: {wrong}")
        elif t.num_tokens > self._limits.max_tokens:
            t.blame("too_long", f"{t.num_tokens} tokens; at most {self._limits.max_tokens} fit")
        elif len(self._transfers) >= self._limits.max_open:
            t.blame("busy", f"{len(self._transfers)} transfers are open", retryable=True)
        return bool(t.code)

    def _data(self, t: Transfer[ReceiverState], message: wire.Data, body: Body) -> None:
        """Only a frame that has a place is worth its checksum."""
        if t.state not in WRITABLE:
            self._acts.fire(t, Event.DATA, message, body)
            return
        assert isinstance(t, Incoming)
        assert t.landing is not None
        match t.landing.place(message, len(body)):
            case Place.NOWHERE:
                self.counts.out_of_range += 1
            case Place.TAKEN:
                self.counts.duplicate += 1
            case Place.EMPTY if wire.checksum(body) == message.checksum:
                self._acts.fire(t, Event.DATA, message, body)
                t.landing.seconds += self._stopwatch() - self._began
                self._settle(t)
            case Place.EMPTY:
                t.blame("corrupt", "a frame's bytes do not match its checksum")
                self._acts.fire(t, Event.CORRUPT, message)

    def _settle(self, t: Transfer[ReceiverState]) -> None:
        """After COMMIT: is everything there, and does it agree?"""
        if t.state is not ReceiverState.SEALING:
            return
        assert isinstance(t, Incoming)
        assert t.landing is not None
        assert t.commit is not None
        if t.landing.waits(t.commit):
            return
        if t.landing.agrees(t.commit):
            self._acts.fire(t, Event.COMPLETE)
        else:
            t.blame("mismatch", "what arrived is not what the sender committed")
            self._acts.fire(t, Event.MISMATCH)

    def _lose(self) -> None:
        if self._acts.now < self._probe_at:
            return
        self._probe_at = self._acts.now + self._timeouts.probe_s
        for peer in self._transport.lost(self._transfers.peers()):
            for t in self._transfers.of(peer):
                t.blame("peer_lost", "the sending node cannot be reached")
                self._acts.fire(t, Event.PEER_LOST)
