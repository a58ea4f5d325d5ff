"""Carries out what ``protocol.SENDER`` says: sends frames, tells the node, counts.

Knows the wire; decides nothing, and reads no KV. ``sender`` says what happened and when.
"""

from __future__ import annotations

from kv_transfer import wire
from kv_transfer.events import Done, Granted, Lost, Refused, SenderEvent
from kv_transfer.limits import Timeouts
from kv_transfer.metrics import SenderCounts
from kv_transfer.outgoing import Outgoing
from kv_transfer.protocol import SENDER, SENDER_HURRIED, SENDER_OPEN, Action, Event, SenderState
from kv_transfer.transfers import Ledger, Transfer
from kv_transfer.transports.base import Dialer
from kv_transfer.wire import Body, Message
from pagewire.errors import LocalProtocolError


class SenderActions:
    """Holds what the actions change: the transfers, the counts, the events for the node.

    ``now`` is set by the caller.
    """

    def __init__(self, transport: Dialer, epoch: str, timeouts: Timeouts, tombstones: int) -> None:
        self._transport = transport
        self._epoch = epoch
        self._timeouts = timeouts
        self.transfers: Ledger[SenderState, Outgoing] = Ledger(SENDER_HURRIED, timeouts, tombstones)
        self.counts = SenderCounts()
        self.events: list[SenderEvent] = []
        self.now = 0.0

    def fire(self, t: Transfer[SenderState], event: Event, message: Message | None = None) -> None:
        """Do what the table says of ``event``, which came with ``message`` or of itself."""
        rule = SENDER[t.state][event]
        t.state = rule.next
        for action in rule.actions:
            self._act(action, t, event, message)
        if t.state not in SENDER_OPEN and (gone := self.transfers.bury(t)) is not None:
            gone.unstage()

    def _act(self, action: Action, t: Transfer[SenderState], event: Event, message: Message | None) -> None:
        match action:
            case Action.COUNT_UNKNOWN:
                self.counts.unknown += 1
            case Action.COUNT_LATE:
                self.counts.late += 1
            case Action.COUNT_STRAY:
                self.counts.stray += 1
            case Action.SEND_ABORT:
                self.send(t, wire.Abort(t.id, self._epoch, t.code[:64], t.reason[: wire.MAX_REASON]))
            case Action.MISUSE:
                raise LocalProtocolError(f"{event.name} is not allowed while {t.state.name}")
            case _:
                assert isinstance(t, Outgoing)
                self._act_open(action, t, message)

    def _act_open(self, action: Action, t: Outgoing, message: Message | None) -> None:
        match action, message:
            case Action.SEND_RESERVE, _:
                self.counts.retries += 1
                self.send(t, t.reserve_message(self._epoch, self.now), t.payload)
            case Action.SEND_COMMIT, _:
                t.retry_at = self.now + self._timeouts.retry_s
                self.send(t, t.commit_message(self._epoch), t.commit_payload)
            case Action.TAKE_CREDIT, wire.Grant() | wire.Credit():
                t.take_credit(message, self.now)
            case Action.TELL_GRANTED, wire.Grant(have_tokens=have, epoch=epoch):
                t.granted(message)
                self.events.append(Granted(t.id, have, epoch))
            case Action.TELL_REFUSED, wire.Refuse():
                self.counts.refused += 1
                self.events.append(Refused(t.id, message.code, message.reason, message.retryable))
            case Action.TELL_DONE, wire.Adopted():
                self.counts.done += 1
                self.events.append(Done(t.id, t.stats(message, self.now)))
            case Action.TELL_LOST, _:
                if isinstance(message, wire.Abort):
                    t.blame(message.code, message.reason)
                self.counts.lost += 1
                self.events.append(Lost(t.id, t.code, t.reason))
            case _:
                raise AssertionError(f"{action} on {message} is not a sender's")

    def send(self, t: Transfer[SenderState], message: Message, body: Body = b"") -> bool:
        return self._transport.send(t.peer, wire.encode(message, body), body)
