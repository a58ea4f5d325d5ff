"""The prefill side of the handoff: asks for room, sends what has been computed as far as credit goes,
commits.

A shell around ``protocol.SENDER``: turns calls, frames and time into its events. What one transfer has
computed and sent is in ``outgoing``, what is done about an event in ``sender_actions``. Knows slots, bytes,
peers and ``now``; decides by no clock of its own, and knows no page, sequence or request.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable

import zmq

from kv_transfer import wire
from kv_transfer.events import SenderEvent
from kv_transfer.limits import Timeouts
from kv_transfer.outgoing import Outgoing
from kv_transfer.protocol import Event, SenderState
from kv_transfer.sender_actions import SenderActions
from kv_transfer.slab import Part
from kv_transfer.store import Copy, PageSource, Slots
from kv_transfer.transfers import Transfer
from kv_transfer.transports.base import Arrived, Dialer, Peer
from kv_transfer.transports.direct import DirectCopy
from kv_transfer.wire import Body, TransferId
from pagewire.errors import LocalProtocolError, RemoteProtocolError
from pagewire.layout import KVLayout

_SENDING = (SenderState.STREAMING, SenderState.FLUSHING)
_STAGED = 2  # frames of a transfer that are read at once: one is sent while the next one comes


class Sender:
    """Drives any number of transfers to any number of receivers, in the thread that calls it.

    ``now`` is seconds on one monotonic clock of the caller's choice, the same in every call.
    """

    def __init__(
        self,
        transport: Dialer,
        store: PageSource,
        layout: KVLayout,
        epoch: str,
        timeouts: Timeouts | None = None,
        *,
        groups: int = 8,
        poll_bytes: int = 32 << 20,
        tombstones: int = 4096,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """The layers go in ``groups`` of about the same size. ``poll_bytes`` bounds what one poll sends, so
        that the caller's loop goes on. ``stopwatch`` gives seconds; it measures work and decides nothing.
        """
        self._transport = transport
        self._store = store
        self._layout = layout
        self._epoch = epoch
        self._timeouts = timeouts or Timeouts()
        self._poll_bytes = poll_bytes
        self.layer_group = -(-layout.layers // groups)
        self._stopwatch = stopwatch
        self._more = False  # there is something to send that needs no answer first
        self._acts = SenderActions(transport, epoch, self._timeouts, tombstones)
        self._transfers = self._acts.transfers
        self.counts = self._acts.counts

    # --- for the node's loop --------------------------------------------------------------------------------

    @property
    def open_transfers(self) -> int:
        return len(self._transfers)

    @property
    def credit_bytes(self) -> int:
        """Bytes that all open transfers together may have under way, as far as is known here."""
        return sum(t.allowed - t.taken for t in self._transfers)

    def reserve(
        self, peer_address: str, num_tokens: int, payload: bytes, deadline_s: float, now: float
    ) -> TransferId:
        """Ask the receiver at ``peer_address`` for room; the answer is Granted, Refused or Lost.

        The whole transfer, until adopted, has ``deadline_s`` seconds. Raises LocalProtocolError if
        ``payload`` is larger than a frame may be.
        """
        peer = Peer(peer_address.encode())
        if not self._transfers.of(peer) and self._transport.lost([peer]):
            self._transport.forget(peer)  # it went away while nothing was open: dial again
        t = Outgoing(
            TransferId(secrets.token_hex(16)),
            peer,
            "",
            SenderState.RESERVING,
            layout=self._layout,
            num_tokens=num_tokens,
            payload=payload,
            group=self.layer_group,
            published=[0] * self._layout.layers,
            ready=[0] * self._layout.layers,
            deadline=now + deadline_s,
            retry_at=now + self._timeouts.retry_s,
            progress_at=now,
        )
        self._acts.now = now
        self._acts.send(t, t.reserve_message(self._epoch, now), payload)
        self._transfers.add(t)
        self.counts.reserved += 1
        return t.id

    def publish(self, transfer: TransferId, slots: Slots, computed: int, layers: int | None = None) -> None:
        """Tokens ``[0, computed)`` are in the store now, or will be when a device has computed what it was
        given until now, token i at ``slots[i]``; ``slots`` may be longer.

        ``layers``: in the first so many layers only; by default in all. They are sent by the next polls, a
        group of ``layer_group`` layers as soon as it is whole. Does nothing if the transfer has ended; raises
        LocalProtocolError before Granted, after commit, and if fewer tokens are computed than were published.
        """
        if (t := self._called(transfer, Event.DO_PUBLISH)) is not None:
            layers = self._layout.layers if layers is None else layers
            t.publish(slots, computed, layers, self._store.mark)
            self._more = True

    def retract(self, transfer: TransferId) -> None:
        """The published tokens are no longer in the store: read none until they are published again.

        What was sent stays sent, and the same tokens must come out with the same KV, wherever it lies then.
        Does nothing if the transfer has ended; raises LocalProtocolError before Granted and after commit.
        """
        if (t := self._called(transfer, Event.DO_PUBLISH)) is not None:
            t.retract()

    def commit(self, transfer: TransferId, payload: bytes, now: float) -> None:
        """All tokens are published; ``payload`` goes along. COMMIT follows the last DATA frame.

        Does nothing if the transfer has ended; raises LocalProtocolError if tokens are missing.
        """
        if (t := self._transfers.get(transfer)) is None:
            return
        t.check_published()
        if len(payload) > wire.MAX_BODY_BYTES:
            raise LocalProtocolError(f"a payload of {len(payload)} bytes is over the limit")
        self._acts.fire(t, Event.DO_COMMIT)
        t.commit(payload, now)
        self._more = True

    def abort(self, transfer: TransferId, code: str, reason: str) -> None:
        """End the transfer and tell the peer; no event follows. Does nothing if it has ended."""
        if (t := self._transfers.get(transfer)) is not None:
            t.blame(code, reason)
            self.counts.aborted += 1
            self._acts.fire(t, Event.DO_ABORT)

    def poll(self, now: float) -> list[SenderEvent]:
        """Take in what has arrived, sweep deadlines, send what may be sent. Never blocks."""
        self._acts.now = now
        for arrived in self._transport.receive():
            self._arrive(arrived)
        self._lose()
        for t, event in self._transfers.overdue(now):
            self._acts.fire(t, event)
        self._pump()
        events, self._acts.events = self._acts.events, []
        return events

    def due_in(self, now: float) -> float:
        """Seconds until poll should be called even if none of ``sockets()`` becomes readable."""
        if self._more or self._acts.events:
            return 0.0
        return max(0.0, self._transfers.due_at(otherwise=now + self._timeouts.retry_s) - now)

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to wait on for input while idle, with ``zmq.Poller``. May change at each call."""
        return self._transport.sockets()

    def close(self) -> None:
        """Abort what is open and close the transport."""
        for t in self._transfers:
            self.abort(t.id, "closed", "the sender is shutting down")
        self._transport.close()

    # --- frames, losses and credit into events --------------------------------------------------------------

    def _called(self, transfer: TransferId, event: Event) -> Outgoing | None:
        """Apply a call of our node; None if the transfer has ended."""
        if (t := self._transfers.get(transfer)) is not None:
            self._acts.fire(t, event)
        return t

    def _arrive(self, arrived: Arrived) -> None:
        try:
            message = wire.decode(arrived.head, arrived.body)
        except wire.OtherVersion:
            self.counts.version += 1
            return
        except RemoteProtocolError:
            self.counts.malformed += 1
            return
        t = self._find(message.transfer, arrived.peer)
        if not t.owns(arrived.peer, message.epoch):
            self.counts.forged += 1
        elif isinstance(message, wire.Grant) and isinstance(t, Outgoing) and not t.fits(message):
            t.blame("bad_grant", "the receiver granted what cannot be used")
            self._acts.fire(t, Event.UNFIT)
        else:
            self._acts.fire(t, Event[message.name], message)

    def _find(self, transfer: TransferId, peer: Peer) -> Transfer[SenderState]:
        unknown = Transfer(transfer, peer, "", SenderState.NONE, "unknown", "no such transfer")
        return self._transfers.find(transfer) or unknown

    def _lose(self) -> None:
        for peer in self._transport.lost(self._transfers.peers()):
            for t in self._transfers.of(peer):
                t.blame("peer_lost", "the receiving node cannot be reached")
                self._acts.fire(t, Event.PEER_LOST)
            self._transport.forget(peer)

    def _pump(self) -> None:
        """Send DATA, one frame a transfer in turn, as far as tokens, credit and the transport go."""
        budget = self._poll_bytes
        turn = deque(t for t in self._transfers if t.state in _SENDING)
        self._more = False
        while turn and budget > 0:
            t = turn.popleft()
            staged, sent = self._stage(t), self._send_staged(t)
            budget -= sent
            if sent or (staged and t.staged):
                turn.append(t)
            elif t.staged or t.coming:
                self._more = True  # it is still being read, or computed: nobody tells when it is
            elif t.drained and t.state is SenderState.FLUSHING:
                self._acts.fire(t, Event.FLUSHED)
        self._more = self._more or bool(turn)

    def _stage(self, t: Outgoing) -> bool:
        """Begin to read the next frame of ``t``, while the one before it may still be on its way here."""
        t.look()
        if len(t.staged) >= _STAGED or (part := t.next_part()) is None:
            return False
        if (copy := self._begin(t, part)) is None:
            return False
        t.stage(part, copy)
        return True

    def _begin(self, t: Outgoing, part: Part) -> Copy | DirectCopy | None:
        """Towards the host's memory, or where the receiver's device takes it from."""
        slots, size = t.slots[part.tokens], part.nbytes(self._layout)
        copy: Copy | DirectCopy | None
        if (lent := self._transport.direct(t.peer, size)) is not None:
            copy, busy = lent.begin(slots, part.layers, size), lent.busy
        else:
            copy, busy = self._store.begin(slots, part.layers), True
        if copy is None and busy:
            self._more = True  # nobody tells when earlier copies are done
        return copy

    def _send_staged(self, t: Outgoing) -> int:
        """Send the next frame of ``t`` if it has been read. Returns the bytes sent.

        Nothing is kept of frames that the transport does not take: they are read again another time.
        """
        if not t.staged or not t.staged[0][1].ready():
            return 0
        part, copy = t.staged[0]
        began = self._stopwatch()
        if (body := self._body(t, part, copy)) is None:
            t.unstage()
            return 0
        check = wire.checksum(body)
        if not self._acts.send(t, t.data_message(self._epoch, part, check), body):
            t.unstage()
            return 0
        t.sent_part(check, self._stopwatch() - began)
        self.counts.frames += 1
        self.counts.bytes += len(body)
        return len(body)

    def _body(self, t: Outgoing, part: Part, copy: Copy | DirectCopy) -> Body | None:
        """What was read, in the wire's memory; None if that has no room for it."""
        if isinstance(copy, DirectCopy):
            return copy
        if (room := self._transport.room(t.peer, part.nbytes(self._layout))) is not None:
            copy.take(room)
        return room
