"""The two processes of the handoff's state machine: how they start, what they are told, and what must hold of
each event, each frame that leaves and each page that is read or written.

Knows of the machine's rules the two polls only: what else happens, and when, is in ``test_handoff_machine``.
"""

from __future__ import annotations

from handoff_jobs import Job, Landing
from handoff_weather import StormyMachine
from hypothesis.stateful import rule
from kv_world import TIMEOUTS
from staged_pages import SinkPages, SourcePages

from kv_transfer import (
    Done,
    Dropped,
    Granted,
    Landed,
    Limits,
    Lost,
    Receiver,
    Refused,
    Reserved,
    Sender,
    SenderEvent,
    TransferId,
    wire,
)
from kv_transfer.protocol import WRITABLE
from kv_transfer.store import Slots
from kv_transfer.transports.base import Arrived, Peer, private_room
from kv_transfer.wire import Buffer
from pagewire.layout import KVLayout

LAYOUT = KVLayout(layers=5, kv_heads=1, head_dim=2, dtype="float16", model="tiny")
TOKEN = LAYOUT.token_bytes
SLOTS, SOURCE, BUFFERS = 24, 48, 3
GOES, NO_ROOM, NO_SEND = "goes", "no room", "no send"  # what the sender's wire does with DATA


class Nodes(StormyMachine):
    """A sender and a receiver, what their nodes know, and what is asked of each event, frame and page."""

    groups, group = 2, 3  # layers [0, 3) and [3, 5)
    limits = Limits(max_open=3, frame_bytes=2 * TOKEN, credit_bytes=4 * TOKEN, inflight_bytes=8 * TOKEN)

    def __init__(self) -> None:
        super().__init__()
        self.network.leaves = self._leaves
        self.now = 50.0
        self.lives = [0, 0]
        self.wire = GOES
        self.jobs: dict[TransferId, Job] = {}
        self.grants: dict[tuple[TransferId, str], int] = {}  # have_tokens, by the receiver's epoch
        self.adopted: set[tuple[TransferId, str]] = set()
        self._start_sender()
        self._start_receiver()

    # --- the two processes ----------------------------------------------------------------------------------

    def _start_sender(self) -> None:
        self.events: list[SenderEvent] = []  # that the node has not read yet
        self.source = SourcePages(SOURCE, LAYOUT, BUFFERS)
        self.source.check_read = self._read
        name = f"prefill-{self.lives[0]}"
        end = self.network.end(name)
        end.room = lambda peer, size: None if self.wire == NO_ROOM else private_room(size)
        send = end.send
        end.send = lambda peer, head, body: (
            (self.wire != NO_SEND or not body) and send(peer, head, body)  # frames without a body go
        )
        self.sender = Sender(end, self.source, LAYOUT, name, TIMEOUTS, groups=self.groups, tombstones=3)

    def _start_receiver(self) -> None:
        self.down = False
        self.sink = SinkPages(SLOTS, LAYOUT)
        self.sink.check_write = self._write
        self.landings: dict[TransferId, Landing] = {}
        self.epoch = f"decode-{self.lives[1]}"
        end = self.network.end("decode")
        self.receiver = Receiver(end, self.sink, LAYOUT, self.epoch, self.limits, TIMEOUTS)

    # --- what is polled -------------------------------------------------------------------------------------

    @rule()
    def sender_polls(self) -> None:
        self._pump()
        self._hear()

    def _pump(self) -> None:
        """Poll, as in the middle of a step: the node reads of what happens when the step is over."""
        self.source.time_passes()
        self.events += self.sender.poll(self.now)
        if self.source.copies:
            assert self.sender.due_in(self.now) == 0.0, "a copy is under way, and nobody looks"

    def _hear(self) -> None:
        events, self.events = self.events, []
        for event in events:
            t, job = event.transfer, self.jobs[event.transfer]
            match event:
                case Granted(have_tokens=have, peer_epoch=epoch):
                    assert not job.granted
                    assert have == self.grants[t, epoch]
                    job.granted, job.have = epoch, have
                case Done(stats=stats):
                    assert stats.bytes == (job.tokens - job.have) * TOKEN
                    assert (t, job.granted) in self.adopted
                    self._sender_ends(job, "done")
                case Lost() | Refused():
                    assert isinstance(event, Lost) or not job.granted
                    self._sender_ends(job, "lost")

    def _sender_ends(self, job: Job, how: str) -> None:
        assert not job.end, f"ended twice: {job.end}, {how}"
        job.end = how
        self.source.give_back(job.source)

    @rule()
    def receiver_polls(self) -> None:
        if self.down:
            return
        for event in self.receiver.poll(self.now):
            t, job = event.transfer, self.jobs[event.transfer]
            match event:
                case Reserved(num_tokens=tokens, payload=payload):
                    assert (tokens, payload) == (job.tokens, bytes([job.tokens]))
                    assert t not in self.landings
                    self.landings[t] = Landing()
                case Landed(payload=payload):
                    landing = self.landings[t]
                    assert landing.target is not None
                    assert not landing.landed
                    assert payload == b"first"
                    self._check_landed(t)
                    landing.landed = True
                case Dropped():
                    self._receiver_ends(t, "dropped")

    def _check_landed(self, transfer: TransferId) -> None:
        target = self.landings[transfer].target
        assert target is not None
        assert self.sink.tokens(target) == self.jobs[transfer].kv.tobytes()

    def _receiver_ends(self, transfer: TransferId, how: str) -> None:
        landing = self.landings[transfer]
        assert not landing.end, f"ended twice: {landing.end}, {how}"
        landing.end = how
        if landing.target is not None:
            self.sink.give_back(landing.target)
            landing.target = None

    # --- what is asked of each frame and each page ----------------------------------------------------------

    def _leaves(self, target: Peer, frame: Arrived) -> None:
        if target == Peer(b"decode"):
            message = wire.decode(frame.head, frame.body)
            match message:
                case wire.Data():
                    self.jobs[message.transfer].data(message, bytes(frame.body), self.group)
                case wire.Commit():
                    self.jobs[message.transfer].commit(message)

    def _read(self, slots: Slots, layers: slice) -> None:
        """One transfer that goes on must have published the slots, in all of the layers."""
        assert any(job.readable(slots, layers) for job in self.jobs.values()), "read, and not published"

    def _write(self, slots: Slots, layers: slice, data: Buffer) -> None:
        """One transfer that is being filled must own the slots, and these be its bytes."""
        mine = set(slots.tolist())
        open_ones = [(t, la) for t, la in self.landings.items() if la.target is not None]
        [(owner, landing)] = [(t, la) for t, la in open_ones if mine <= set(la.target.tolist())]
        assert not mine & set(landing.target[: landing.have].tolist()), "a write below the prefix hit"
        assert not landing.landed
        assert self.receiver._transfers.get(owner).state in WRITABLE
        first = landing.target.tolist().index(slots[0])
        assert (landing.target[first : first + len(slots)] == slots).all()
        assert data == self.jobs[owner].slab(slice(first, first + len(slots)), layers), "other bytes land"

    # --- for the rules --------------------------------------------------------------------------------------

    def _job(self, pick: int, *, streaming: bool) -> TransferId | None:
        found = [t for t, job in self.jobs.items() if (job.streaming if streaming else not job.end)]
        return found[pick % len(found)] if found else None

    def _landing(
        self, pick: int, *, granted: bool | None = None, landed: bool | None = None
    ) -> TransferId | None:
        found = [
            t
            for t, la in self.landings.items()
            if not la.end and granted in (None, la.target is not None) and landed in (None, la.landed)
        ]
        return found[pick % len(found)] if found else None

    def _publish(self, transfer: TransferId, computed: int, layers: int, more: int = 0) -> None:
        """The first ``layers`` layers of the first ``computed`` tokens are computed now."""
        job = self.jobs[transfer]
        self.source.compute(job.source[:computed], layers, job.kv[:, :, :computed])
        job.ready[:layers] = [computed] * layers
        self.sender.publish(transfer, job.source[: computed + more], computed, layers)
