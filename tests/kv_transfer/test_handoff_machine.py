"""Both sides over a network that loses, repeats, reorders, delays and damages frames, with crashes and
preemptions at any step. The prefill node publishes layer by layer, out of pages that take their time to read.
"""

from __future__ import annotations

from handoff_jobs import Job
from handoff_nodes import GOES, LAYOUT, NO_ROOM, NO_SEND, SLOTS, SOURCE, TOKEN, Nodes
from handoff_weather import PICK
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from staged_pages import some_kv

from kv_transfer import (
    Limits,
)
from kv_transfer.transports.base import Peer

SENDER, RECEIVER, BACK_AT_ONCE = "sender", "receiver", "receiver, which is back at once"


class HandoffMachine(Nodes):
    """What may happen, in any order."""

    # --- crashes, the wire and time ------------------------------------------------------------------------

    @rule(who=st.sampled_from([SENDER, RECEIVER, BACK_AT_ONCE]))
    def crash(self, who: str) -> None:
        if who == SENDER:
            self._sender_crashes()
        elif not self.down:
            self._receiver_crashes()
            if who == BACK_AT_ONCE:
                self.receiver_comes_back()

    def _sender_crashes(self) -> None:
        self.network.leave(Peer(f"prefill-{self.lives[0]}".encode()))
        self.lives[0] += 1
        self._start_sender()
        for job in self.jobs.values():
            job.end = job.end or "crash"

    def _receiver_crashes(self) -> None:
        """Until it comes back, who polls can see that it is gone."""
        self.network.leave(Peer(b"decode"))
        self.landings.clear()
        self.sink.free = list(range(SLOTS))
        self.down = True

    @precondition(lambda self: self.down)
    @rule()
    def receiver_comes_back(self) -> None:
        self.lives[1] += 1
        self._start_receiver()

    @rule(does=st.sampled_from([GOES, NO_ROOM, NO_SEND]))
    def the_wire(self, does: str) -> None:
        self.wire = does

    @rule(seconds=st.sampled_from([0.01, 0.01, 0.3, 0.3, 1.1, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(polls=st.integers(0, 2), late=st.booleans())
    def copies_take(self, polls: int, late: bool) -> None:
        self.source.polls, self.source.late = polls, late

    # --- the nodes ------------------------------------------------------------------------------------------

    @initialize(
        lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
        have=st.integers(0, 3),
        polls=st.integers(0, 2),
        late=st.booleans(),
    )
    def some_are_granted(self, lengths: list[int], have: int, polls: int, late: bool) -> None:
        self.copies_take(polls, late)
        for tokens in lengths:
            self.reserve(tokens)
        self.deliver_all_in_order()
        self.receiver_polls()
        for _ in lengths:
            self.grant(0, have)
        self.deliver_all_in_order()
        self.sender_polls()

    @rule(tokens=st.integers(1, 7))
    def reserve(self, tokens: int) -> None:
        if tokens <= len(self.source.free):
            source = self.source.take(tokens)
            transfer = self.sender.reserve("decode", tokens, bytes([tokens]), 30.0, self.now)
            self.jobs[transfer] = Job(some_kv(LAYOUT, tokens, len(self.jobs)), source)

    @rule(pick=PICK, part=st.floats(0, 1), layers=st.integers(1, LAYOUT.layers), more=st.integers(0, 2))
    def publish(self, pick: int, part: float, layers: int, more: int) -> None:
        """All that the API allows: later layers never have more tokens than earlier ones."""
        if (t := self._job(pick, streaming=True)) is not None:
            job = self.jobs[t]
            self._publish(t, max(job.ready[0], round(part * job.tokens)), layers, more)

    @rule(part=st.floats(0, 1), whole=st.integers(0, 3), answered=st.booleans())
    def compute_step(self, part: float, whole: int, answered: bool) -> None:
        """As the prefill node's loop: a batch goes through the layers, and each group that is whole leaves.

        Of the batch's prompts the first ``whole`` are computed to their end.
        """
        batch = [t for t, job in self.jobs.items() if job.streaming]
        starts = {t: self.jobs[t].ready[0] for t in batch}
        ends = {t: self.jobs[t].tokens for t in batch[:whole]}
        for t, start in starts.items():
            self._publish(t, start, LAYOUT.layers)
            ends.setdefault(t, start + round(part * (self.jobs[t].tokens - start)))
        self._pump()
        for layers in range(1, LAYOUT.layers + 1):
            if layers % self.sender.layer_group and layers != LAYOUT.layers:
                continue
            for t, end in ends.items():
                self._publish(t, end, layers)
            if answered:
                self.deliver_all_in_order()
                self.receiver_polls()
                self.deliver_all_in_order()
            self._pump()
        self._hear()

    @rule(pick=PICK)
    def retract(self, pick: int) -> None:
        """The tokens are preempted, and computed again elsewhere: the old slots become another's."""
        if (t := self._job(pick, streaming=True)) is not None:
            job = self.jobs[t]
            self.sender.retract(t)
            self.source.give_back(job.source)
            job.source = self.source.take(job.tokens)
            job.unpublish()

    @rule(pick=PICK, layers=st.integers(1, LAYOUT.layers), late=st.booleans())
    def retract_in_the_middle(self, pick: int, layers: int, late: bool) -> None:
        """Some layers are published, and their copies under way."""
        if (t := self._job(pick, streaming=True)) is not None:
            self.copies_take(2, late)
            self._publish(t, self.jobs[t].tokens, layers)
            self._pump()
            self.retract(pick)
            self._hear()

    @rule(pick=PICK)
    def commit(self, pick: int) -> None:
        if (t := self._job(pick, streaming=True)) is not None:
            job = self.jobs[t]
            self._publish(t, job.tokens, LAYOUT.layers)
            job.committed = True
            self.sender.commit(t, b"first", self.now)

    @rule(pick=PICK)
    def sender_aborts(self, pick: int) -> None:
        if (t := self._job(pick, streaming=False)) is not None:
            self.sender.abort(t, "gone", "gone")
            self._sender_ends(self.jobs[t], "aborted")

    @rule(pick=PICK, have=st.integers(0, 7))
    def grant(self, pick: int, have: int) -> None:
        t = self._landing(pick, granted=False)
        if t is None or self.jobs[t].tokens > len(self.sink.free):
            return
        landing, job = self.landings[t], self.jobs[t]
        slots, have = self.sink.take(job.tokens), min(have, job.tokens)
        self.sink.kv[:, :, slots[:have]] = job.kv[:, :, :have]
        if self.receiver.grant(t, have, slots):
            landing.target, landing.have = slots, have
            self.grants[t, self.epoch] = have
        else:
            self.sink.give_back(slots)

    @rule(pick=PICK)
    def refuse(self, pick: int) -> None:
        if (t := self._landing(pick, granted=False)) is not None:
            self.receiver.refuse(t, "no", "no", retryable=True)
            self._receiver_ends(t, "refused")

    @rule(pick=PICK)
    def adopt(self, pick: int) -> None:
        if (t := self._landing(pick, landed=True)) is not None and self.receiver.adopt(t):
            self._check_landed(t)
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
        self.wire = GOES
        if self.down:
            self.receiver_comes_back()
        for _ in range(8):
            self.deliver_all_in_order()
            self.receiver_polls()
            self.grant(0, 1)
            self.deliver_all_in_order()
            self.sender_polls()
            self.compute_step(part, 0, answered=True)
            if preempted:
                self.retract(0)
                self.sender_polls()
            self.commit(0)
            self.adopt(0)

    # --- what always holds ----------------------------------------------------------------------------------

    @invariant()
    def slots_are_conserved(self) -> None:
        held = [s for la in self.landings.values() if la.target is not None for s in la.target.tolist()]
        assert sorted(self.sink.free + held) == list(range(SLOTS))

    @invariant()
    def pages_are_read_only_while_they_are_published(self) -> None:
        for copy in self.source.copies:
            self._read(copy.slots, copy.layers)

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
        assert sorted(self.sink.free) == list(range(SLOTS))
        assert sorted(self.source.free) == list(range(SOURCE))
        assert not self.source.copies
        assert all(job.end for job in self.jobs.values())
        assert all(landing.end for landing in self.landings.values())


class SmallFramesMachine(HandoffMachine):
    """Frames that hold less than a token of a group: the groups are made smaller."""

    group = 2
    limits = Limits(
        max_open=3, frame_bytes=TOKEN // 2, credit_bytes=2 * TOKEN, inflight_bytes=4 * TOKEN, tombstones=2
    )


class EachLayerMachine(HandoffMachine):
    """More groups than layers: each layer goes by itself."""

    groups, group = 8, 1


_SETTINGS = settings(
    deadline=None,
    max_examples=50,
    stateful_step_count=50,
    phases=[Phase.generate],
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
TestHandoff = HandoffMachine.TestCase
TestHandoff.settings = _SETTINGS
TestSmallFrames = SmallFramesMachine.TestCase
TestSmallFrames.settings = _SETTINGS
TestEachLayer = EachLayerMachine.TestCase
TestEachLayer.settings = _SETTINGS
