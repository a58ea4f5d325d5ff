"""Both sides over a network that loses, repeats, reorders, delays and damages frames, with crashes and
preemptions at any step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kv_world import LAYOUT, LIMITS, TIMEOUTS, TOKEN, Store

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
    TransferId,
)
from kv_transfer.protocol import WRITABLE
from kv_transfer.store import Slots
from kv_transfer.transports.base import Arrived, Peer, private_room
from kv_transfer.transports.loopback import Loopback

SLOTS, SOURCE = 24, 48
PICK = st.integers(0, 1 << 16)


class Weather(Loopback):
    """Frames hang in the air until a rule decides about them."""

    def __init__(self) -> None:
        super().__init__()
        self.air: list[tuple[Peer, Arrived]] = []

    def carry(self, target: Peer, frame: Arrived) -> None:
        self.air.append((target, frame))


@dataclass
class Job:
    """What the test knows of one transfer at the sender. Its source slots are its own until it ends."""

    tokens: int
    kv: bytes
    source: Slots
    granted: str = ""  # the receiver's epoch, once the sender's node was told
    have: int = 0
    computed: int = 0
    committed: bool = False
    end: str = ""


@dataclass
class Landing:
    """What the test knows of one transfer in one life of the receiver."""

    target: Slots | None = None  # while the receiver may write there
    have: int = 0
    landed: bool = False
    end: str = ""


class HandoffMachine(RuleBasedStateMachine):
    limits = LIMITS

    def __init__(self) -> None:
        super().__init__()
        self.network = Weather()
        self.now = 50.0
        self.lives = [0, 0]
        self.full = False  # the sender's wire takes no DATA
        self.jobs: dict[TransferId, Job] = {}
        self.grants: dict[tuple[TransferId, str], int] = {}  # have_tokens, by the receiver's epoch
        self.adopted: set[tuple[TransferId, str]] = set()
        self._start_sender()
        self._start_receiver()

    # --- the two processes ----------------------------------------------------------------------------------

    def _start_sender(self) -> None:
        self.source = Store(SOURCE, seed=3)
        self.source.check_read = self._read
        self.source_free = list(range(SOURCE))
        name = f"prefill-{self.lives[0]}"
        end = self.network.end(name)
        end.room = lambda peer, size: None if self.full else private_room(size)
        self.sender = Sender(end, self.source, LAYOUT, name, TIMEOUTS, tombstones=3)

    def _start_receiver(self) -> None:
        self.down = False
        self.sink = Store(SLOTS)
        self.sink.check = self._write
        self.free = list(range(SLOTS))
        self.landings: dict[TransferId, Landing] = {}
        self.epoch = f"decode-{self.lives[1]}"
        end = self.network.end("decode")
        self.receiver = Receiver(end, self.sink, LAYOUT, self.epoch, self.limits, TIMEOUTS)

    @rule()
    def sender_crashes(self) -> None:
        self.network.leave(Peer(f"prefill-{self.lives[0]}".encode()))
        self.lives[0] += 1
        self._start_sender()
        for job in self.jobs.values():
            job.end = job.end or "crash"

    @precondition(lambda self: not self.down)
    @rule()
    def receiver_crashes(self) -> None:
        """Until it comes back, who polls can see that it is gone."""
        self.network.leave(Peer(b"decode"))
        self.landings.clear()
        self.free = list(range(SLOTS))
        self.down = True

    @precondition(lambda self: self.down)
    @rule()
    def receiver_comes_back(self) -> None:
        self.lives[1] += 1
        self._start_receiver()

    @rule()
    def receiver_crashes_and_is_back_at_once(self) -> None:
        self.network.leave(Peer(b"decode"))
        self.lives[1] += 1
        self._start_receiver()

    # --- the network ----------------------------------------------------------------------------------------

    def _take(self, pick: int) -> tuple[Peer, Arrived]:
        return self.network.air.pop(pick % len(self.network.air))

    @precondition(lambda self: self.network.air)
    @rule(pick=PICK)
    def deliver(self, pick: int) -> None:
        self.network.deliver(*self._take(pick))

    @rule(full=st.booleans())
    def the_wire_is_full(self, full: bool) -> None:
        self.full = full

    @rule()
    def deliver_all_in_order(self) -> None:
        for target, frame in self.network.air:
            self.network.deliver(target, frame)
        self.network.air.clear()

    @precondition(lambda self: self.network.air)
    @rule(pick=PICK)
    def lose(self, pick: int) -> None:
        self._take(pick)

    @precondition(lambda self: self.network.air)
    @rule(pick=PICK)
    def repeat(self, pick: int) -> None:
        self.network.air.append(self.network.air[pick % len(self.network.air)])

    @precondition(lambda self: self.network.air)
    @rule(pick=PICK, bit=PICK)
    def damage(self, pick: int, bit: int) -> None:
        target, frame = self._take(pick)
        whole = bytearray(frame.head + bytes(frame.body))
        whole[bit // 8 % len(whole)] ^= 1 << bit % 8
        cut = len(frame.head)
        self.network.air.append((target, Arrived(frame.peer, bytes(whole[:cut]), bytes(whole[cut:]))))

    # --- time and polls -------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.1, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sender_polls(self) -> None:
        for event in self.sender.poll(self.now):
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
        self.source.kv[:, :, job.source] ^= 0xFF  # the pages are somebody else's now
        self.source_free += job.source.tolist()

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
                    kv = np.frombuffer(job.kv, np.uint8).reshape(LAYOUT.layers, 2, job.tokens, -1)
                    landed = self.sink.tokens(landing.target[landing.have :])
                    assert landed == kv[:, :, landing.have :].tobytes()
                    landing.landed = True
                case Dropped():
                    self._receiver_ends(t, "dropped")

    def _receiver_ends(self, transfer: TransferId, how: str) -> None:
        landing = self.landings[transfer]
        assert not landing.end, f"ended twice: {landing.end}, {how}"
        landing.end = how
        if landing.target is not None:
            self.free += landing.target.tolist()
            landing.target = None

    def _write(self, slots: Slots) -> None:
        """Called before each write: one transfer that is being filled must own the slots."""
        mine = set(slots.tolist())
        open_ones = [(t, la) for t, la in self.landings.items() if la.target is not None]
        [(owner, landing)] = [(t, la) for t, la in open_ones if mine <= set(la.target.tolist())]
        assert not mine & set(landing.target[: landing.have].tolist()), "a write below the prefix hit"
        assert not landing.landed
        assert self.receiver._transfers.get(owner).state in WRITABLE

    # --- the nodes ------------------------------------------------------------------------------------------

    @rule(tokens=st.integers(1, 7))
    def reserve(self, tokens: int) -> None:
        if tokens <= len(self.source_free):
            source = np.array([self.source_free.pop(0) for _ in range(tokens)])
            transfer = self.sender.reserve("decode", tokens, bytes([tokens]), 30.0, self.now)
            self.jobs[transfer] = Job(tokens, self.source.tokens(source), source)

    def _job(self, pick: int, *, streaming: bool) -> TransferId | None:
        jobs = self.jobs.items()
        found = [t for t, j in jobs if not j.end and (not streaming or (j.granted and not j.committed))]
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

    @rule(pick=PICK, part=st.floats(0, 1))
    def publish(self, pick: int, part: float) -> None:
        if (t := self._job(pick, streaming=True)) is not None:
            job = self.jobs[t]
            job.computed = max(job.computed, round(part * job.tokens))
            self.sender.publish(t, job.source, job.computed)

    @rule(pick=PICK)
    def retract(self, pick: int) -> None:
        """The tokens are preempted, and computed again elsewhere: the old slots become another's."""
        if (t := self._job(pick, streaming=True)) is not None:
            job = self.jobs[t]
            self.sender.retract(t)
            self.source.kv[:, :, job.source] ^= 0xFF
            self.source_free += job.source.tolist()
            job.source = np.array([self.source_free.pop(0) for _ in range(job.tokens)])
            kv = np.frombuffer(job.kv, np.uint8).reshape(LAYOUT.layers, 2, job.tokens, -1)
            self.source.kv[:, :, job.source] = kv
            job.computed = 0

    def _read(self, slots: Slots) -> None:
        """Called before each read: one transfer that goes on must have published the slots."""
        mine = set(slots.tolist())
        assert any(mine <= set(j.source[: j.computed].tolist()) for j in self.jobs.values() if not j.end)

    @rule(pick=PICK)
    def commit(self, pick: int) -> None:
        if (t := self._job(pick, streaming=True)) is not None:
            job = self.jobs[t]
            job.computed, job.committed = job.tokens, True
            self.sender.publish(t, job.source, job.tokens)
            self.sender.commit(t, b"first", self.now)

    @rule(pick=PICK)
    def sender_aborts(self, pick: int) -> None:
        if (t := self._job(pick, streaming=False)) is not None:
            self.sender.abort(t, "gone", "gone")
            self._sender_ends(self.jobs[t], "aborted")

    @rule(pick=PICK, have=st.integers(0, 7))
    def grant(self, pick: int, have: int) -> None:
        t = self._landing(pick, granted=False)
        if t is None or self.jobs[t].tokens > len(self.free):
            return
        landing, have = self.landings[t], min(have, self.jobs[t].tokens)
        slots = np.array([self.free.pop(0) for _ in range(self.jobs[t].tokens)])
        if self.receiver.grant(t, have, slots):
            landing.target, landing.have = slots, have
            self.grants[t, self.epoch] = have
        else:
            self.free += slots.tolist()

    @rule(pick=PICK)
    def refuse(self, pick: int) -> None:
        if (t := self._landing(pick, granted=False)) is not None:
            self.receiver.refuse(t, "no", "no", retryable=True)
            self._receiver_ends(t, "refused")

    @rule(pick=PICK)
    def adopt(self, pick: int) -> None:
        if (t := self._landing(pick, landed=True)) is not None and self.receiver.adopt(t):
            self.adopted.add((t, self.epoch))
            self._receiver_ends(t, "adopted")

    @rule(pick=PICK)
    def receiver_aborts(self, pick: int) -> None:
        if (t := self._landing(pick)) is not None:
            self.receiver.abort(t, "full", "full")
            self._receiver_ends(t, "aborted")

    @rule(part=st.floats(0, 1), preempted=st.booleans())
    def a_good_while(self, part: float, preempted: bool) -> None:
        """Everything works for some rounds, so that transfers get far."""
        self.full = False
        if self.down:
            self.receiver_comes_back()
        for _ in range(8):
            self.deliver_all_in_order()
            self.receiver_polls()
            self.grant(0, 1)
            self.deliver_all_in_order()
            self.sender_polls()
            self.publish(0, part)
            if preempted:
                self.retract(0)
                self.sender_polls()
            self.commit(0)
            self.adopt(0)

    # --- what always holds ----------------------------------------------------------------------------------

    @invariant()
    def slots_are_conserved(self) -> None:
        held = [s for la in self.landings.values() if la.target is not None for s in la.target.tolist()]
        assert sorted(self.free + held) == list(range(SLOTS))

    @invariant()
    def credit_is_conserved_and_bounded(self) -> None:
        if self.down:
            return
        windows = [t.landing.window for t in self.receiver._transfers if t.landing is not None]
        assert sum(w.held for w in windows) == self.receiver.credit_bytes <= self.limits.inflight_bytes
        for t in self.sender._transfers:
            other = self.receiver._transfers.get(t.id)
            if other is not None and other.landing is not None:
                assert t.sent <= t.allowed <= other.landing.window.allowed

    def teardown(self) -> None:
        """Silence and time: both sides forget everything by themselves, having told of each end once."""
        self.network.air.clear()
        if self.down:
            self.sender_polls()
            assert self.sender.open_transfers == 0, "the receiver is gone, and the sender waits for it"
            self.receiver_comes_back()
        for _ in range(3):
            self.now += 31.0
            self.sender_polls()
            self.receiver_polls()
        assert self.sender.open_transfers == self.receiver.open_transfers == 0
        assert self.receiver.credit_bytes == 0
        assert sorted(self.free) == list(range(SLOTS))
        assert all(job.end for job in self.jobs.values())
        assert all(landing.end for landing in self.landings.values())


class SplitLayersMachine(HandoffMachine):
    limits = Limits(
        max_open=3, frame_bytes=TOKEN // 2, credit_bytes=2 * TOKEN, inflight_bytes=4 * TOKEN, tombstones=2
    )


_SETTINGS = settings(
    deadline=None,
    max_examples=100,
    stateful_step_count=50,
    phases=[Phase.generate],
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
TestHandoff = HandoffMachine.TestCase
TestHandoff.settings = _SETTINGS
TestSplitLayers = SplitLayersMachine.TestCase
TestSplitLayers.settings = _SETTINGS
