"""Carries out what ``protocol.RECEIVER`` says: writes pages, sends frames, tells the node, counts.

Knows the store, the wire and the credit; decides nothing. ``receiver`` says what happened and when.
"""

from __future__ import annotations

from kv_transfer import wire
from kv_transfer.credits import CreditPool
from kv_transfer.events import Dropped, Landed, ReceiverEvent, Reserved
from kv_transfer.incoming import Incoming, part_of
from kv_transfer.limits import Limits, Timeouts
from kv_transfer.metrics import ReceiverCounts
from kv_transfer.protocol import RECEIVER, RECEIVER_HURRIED, RECEIVER_OPEN, Action, Event, ReceiverState
from kv_transfer.store import PageSink
from kv_transfer.transfers import Ledger, Transfer
from kv_transfer.transports.base import Listener
from kv_transfer.wire import Body, Buffer, Message
from pagewire.errors import LocalProtocolError


class ReceiverActions:
    """Holds what the actions change: the transfers and their credit, the counts, the events for the node.

    ``now`` is set by the caller.
    """

    def __init__(
        self, transport: Listener, store: PageSink, epoch: str, limits: Limits, timeouts: Timeouts
    ) -> None:
        self._transport = transport
        self._store = store
        self._epoch = epoch
        self._limits = limits
        self._timeouts = timeouts
        self.transfers: Ledger[ReceiverState, Incoming] = Ledger(
            RECEIVER_HURRIED, timeouts, limits.tombstones
        )
        self.credits = CreditPool(limits)
        self.counts = ReceiverCounts()
        self.events: list[ReceiverEvent] = []
        self.now = 0.0

    def fire(
        self,
        t: Transfer[ReceiverState],
        event: Event,
        message: Message | None = None,
        body: Body = b"",
    ) -> None:
        """Do what the table says of ``event``, which came with ``message`` and ``body``, or of itself."""
        rule = RECEIVER[t.state][event]
        t.state = rule.next
        for action in rule.actions:
            self._act(action, t, event, message, body)
        if t.state not in RECEIVER_OPEN:
            gone = self.transfers.bury(t)
            if gone is not None and gone.landing is not None:
                self.credits.close(gone.landing.window)

    def _act(
        self, action: Action, t: Transfer[ReceiverState], event: Event, message: Message | None, body: Body
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
                landing = t.landing if isinstance(t, Incoming) else None  # None: it is said again
                self._send(t, wire.Adopted(t.id, self._epoch, round(landing.seconds * 1e6) if landing else 0))
            case Action.MISUSE:
                raise LocalProtocolError(f"{event.name} is not allowed while {t.state.name}")
            case _:
                assert isinstance(t, Incoming)
                self._act_open(action, t, message, body)

    def _act_open(self, action: Action, t: Incoming, message: Message | None, body: Body) -> None:
        match action, message:
            case Action.SEND_GRANT, _:
                t.retry_at = self.now + self._timeouts.retry_s
                self._send(t, t.grant_message(self._epoch, self._limits.frame_bytes))
            case Action.SEND_CREDIT, _:
                sent = self._send(t, t.credit_message(self._epoch))
                t.retry_at = self.now + (self._timeouts.retry_s if sent else 0.0)
            case Action.WRITE, wire.Data():
                self._write(t, message, body)
            case Action.KEEP_COMMIT, wire.Commit():
                assert isinstance(body, Buffer), "decode lets no other payload through"
                t.commit, t.commit_payload, t.progress_at = message, bytes(body), self.now
            case Action.TELL_RESERVED, _:
                self.counts.reserved += 1
                peer = t.peer.decode("ascii", "backslashreplace")
                self.events.append(Reserved(t.id, peer, t.num_tokens, t.payload, t.deadline))
                t.payload = b""
            case Action.TELL_LANDED, _:
                self.counts.landed += 1
                t.progress_at = self.now
                self.events.append(Landed(t.id, t.commit_payload))
            case Action.TELL_DROPPED, _:
                if isinstance(message, wire.Abort):
                    t.blame(message.code, message.reason)
                self.counts.dropped += 1
                self.events.append(Dropped(t.id, t.code, t.reason))
            case _:
                raise AssertionError(f"{action} on {message} is not a receiver's")

    def _write(self, t: Incoming, message: wire.Data, body: Body) -> None:
        assert t.landing is not None
        part = part_of(message)
        self._store.write(t.landing.slots[part.tokens], part.layers, body)
        t.landing.wrote(message)
        self.credits.take(t.landing.window, len(body))
        self.counts.frames += 1
        self.counts.bytes += len(body)
        t.progress_at = self.now

    def _send(self, t: Transfer[ReceiverState], message: Message) -> bool:
        return self._transport.send(t.peer, wire.encode(message), b"")
