"""One sender, one receiver, one fault at a time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from kv_world import LAYOUT, LIMITS, TOKEN, Store, World

from kv_transfer import (
    Done,
    Dropped,
    Granted,
    Landed,
    Lost,
    Receiver,
    Refused,
    Reserved,
    Sender,
    TransferId,
    wire,
)
from kv_transfer.transports.base import Arrived, Peer
from kv_transfer.transports.loopback import Loopback
from pagewire.errors import ConfigError, LocalProtocolError
from pagewire.layout import KVLayout


class Tap(Loopback):
    """Keeps every frame; ``change`` may replace one, or lose it by returning None."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Peer, Arrived]] = []
        self.change = lambda frame, message: frame

    def carry(self, target: Peer, frame: Arrived) -> None:
        self.seen.append((target, frame))
        if (changed := self.change(frame, wire.decode(frame.head, frame.body))) is not None:
            self.deliver(target, changed)

    def lose(self, *types: type) -> None:
        self.change = lambda frame, message: None if isinstance(message, types) else frame

    def messages(self, cls: type) -> list:
        decoded = [wire.decode(frame.head, frame.body) for _, frame in self.seen]
        return [m for m in decoded if isinstance(m, cls)]


def _kinds(events: list) -> list[type]:
    return [type(e) for e in events]


def test_the_receivers_node_is_told_what_is_asked() -> None:
    world = World()
    transfer = world.reserve(tokens=8, deadline_s=60, payload=b"who")
    world.poll()
    assert world.received == [Reserved(transfer, "prefill", 8, b"who", world.now + 60)]


def test_the_senders_node_is_told_the_grant() -> None:
    world = World()
    transfer = world.granted(tokens=8, have=3)
    assert world.sent == [Granted(transfer, 3, "epoch-d")]


def test_what_lands_is_what_was_sent() -> None:
    world = World()
    world.landed(8)
    assert world.sink.tokens(world.target(8)) == world.source.tokens(np.arange(8))


def test_landed_carries_the_payload_of_commit() -> None:
    world = World()
    transfer = world.landed()
    assert world.received[-1] == Landed(transfer, b"first")


def test_adopting_ends_it_on_both_sides() -> None:
    world = World()
    transfer = world.landed()
    assert world.receiver.adopt(transfer)
    world.poll()
    assert isinstance(world.sent[-1], Done)
    assert (world.sender.open_transfers, world.receiver.open_transfers, world.receiver.credit_bytes) == (
        0,
        0,
        0,
    )


def test_tokens_that_the_receiver_has_are_neither_sent_nor_written() -> None:
    world = World()
    transfer = world.granted(tokens=8, have=5)
    world.sender.publish(transfer, np.arange(8), 8)
    world.sender.commit(transfer, b"", world.now)
    world.poll(5)
    assert world.sender.counts.bytes == 3 * TOKEN
    assert not world.sink.kv[:, :, 20:25].any()
    assert isinstance(world.received[-1], Landed)


def test_a_whole_prefix_hit_moves_no_bytes() -> None:
    world = World()
    transfer = world.granted(tokens=8, have=8)
    world.sender.publish(transfer, np.arange(8), 8)
    world.sender.commit(transfer, b"x", world.now)
    world.poll(2)
    assert world.received[-1] == Landed(transfer, b"x")
    assert world.sink.writes == 0


def test_tokens_go_out_as_they_are_published() -> None:
    world = World()
    transfer = world.granted(tokens=8)
    for computed in (1, 4, 8):
        world.sender.publish(transfer, np.arange(8), computed)
        world.poll(6)
        assert world.receiver.counts.bytes == computed * TOKEN


def test_publishing_in_pieces_lands_the_same_bytes() -> None:
    world = World()
    transfer = world.granted(tokens=8)
    slots = np.array([9, 3, 50, 4, 1, 0, 33, 2])
    for computed in (1, 4, 8):
        world.sender.publish(transfer, slots[:computed], computed)
        world.poll(2)
    world.sender.commit(transfer, b"", world.now)
    world.poll(6)
    assert isinstance(world.received[-1], Landed)
    assert world.sink.tokens(world.target(8)) == world.source.tokens(slots)


def test_a_layer_larger_than_a_frame_is_split_by_layers() -> None:
    world = World(limits=replace(LIMITS, frame_bytes=TOKEN // 2))
    world.landed(8)
    assert world.receiver.counts.frames == 16
    assert world.sink.tokens(world.target(8)) == world.source.tokens(np.arange(8))


def test_no_more_is_under_way_than_credit_allows() -> None:
    world = World()
    transfer = world.granted(tokens=8)
    world.sender.publish(transfer, np.arange(8), 8)
    world.sender.poll(world.now)
    assert world.sender.counts.bytes == LIMITS.frame_bytes


def test_a_transfer_without_credit_pauses_alone() -> None:
    world = World()
    first, second = world.reserve(), world.reserve()
    world.poll()
    world.receiver.grant(first, 0, world.target(8))
    world.receiver.grant(second, 0, world.target(8) + 10)
    world.poll()
    world.network.deliver = lambda target, frame: None  # the receiver is busy: no credit comes back
    for transfer in (first, second):
        world.sender.publish(transfer, np.arange(8), 8)
    world.sender.poll(world.now)
    assert world.sender.counts.bytes == 2 * LIMITS.frame_bytes


def test_a_refusal_carries_the_nodes_words() -> None:
    world = World()
    transfer = world.reserve()
    world.poll()
    world.receiver.refuse(transfer, "no_pages", "all pages are taken", retryable=True)
    world.poll()
    assert world.sent == [Refused(transfer, "no_pages", "all pages are taken", True)]


def test_another_layout_is_refused_by_name() -> None:
    world = World()
    other = replace(LAYOUT, kv_heads=4, model="other")
    sender = Sender(world.network.end("stranger"), Store(8, other), other, "e")
    transfer = sender.reserve("decode", 4, b"", 9, world.now)
    assert world.receiver.poll(world.now) == []
    [event] = sender.poll(world.now)
    assert event == Refused(
        transfer,
        "layout_mismatch",
        "the nodes' KV layouts differ: kv_heads 1 != 4, model tiny != other",
        False,
    )


def test_more_tokens_than_fit_are_refused_for_good() -> None:
    world = World(limits=replace(LIMITS, max_tokens=7))
    world.reserve(tokens=8)
    world.poll()
    assert [(e.code, e.retryable) for e in world.sent] == [("too_long", False)]


def test_too_many_open_transfers_are_refused_for_now() -> None:
    world = World()
    for _ in range(LIMITS.max_open + 1):
        world.reserve()
    world.poll()
    assert [(e.code, e.retryable) for e in world.sent] == [("busy", True)]


def test_a_lost_grant_is_said_again() -> None:
    world = World(Tap())
    world.network.lose(wire.Grant)
    transfer = world.granted()
    world.network.lose()
    world.now += 1.1
    world.sender.poll(world.now)
    world.poll()
    assert world.sent == [Granted(transfer, 0, "epoch-d")]


def test_a_lost_adopted_is_said_again() -> None:
    world = World(Tap())
    transfer = world.landed()
    world.network.lose(wire.Adopted)
    world.receiver.adopt(transfer)
    world.poll()
    world.network.lose()
    world.now += 1.1
    world.sender.poll(world.now)
    world.poll()
    assert isinstance(world.sent[-1], Done)


def test_a_lost_refusal_is_said_again() -> None:
    world = World(Tap())
    transfer = world.reserve()
    world.poll()
    world.network.lose(wire.Refuse)
    world.receiver.refuse(transfer, "no", "no", retryable=False)
    world.network.lose()
    world.now += 1.1
    world.sender.poll(world.now)
    world.poll()
    assert _kinds(world.sent) == [Refused]
    assert world.receiver.counts.refused == 1


def test_a_lost_credit_is_said_again() -> None:
    world = World(Tap())
    transfer = world.granted()
    world.network.lose(wire.Credit)
    world.sender.publish(transfer, np.arange(8), 8)
    world.poll(3)
    world.network.lose()
    world.now += 1.1
    world.poll(12)
    assert world.receiver.counts.bytes == 8 * TOKEN


def test_a_repeated_credit_does_not_add_up() -> None:
    world = World(Tap())
    transfer = world.granted(tokens=40)
    world.sender.publish(transfer, np.arange(40), 2)
    world.poll(2)
    credit = world.network.messages(wire.Credit)[-1]
    world.sender_end.inbox += [Arrived(Peer(b"decode"), wire.encode(credit), b"")] * 10
    world.sender.poll(world.now)
    world.sender.publish(transfer, np.arange(40), 40)
    world.sender.poll(world.now)
    assert world.sender.counts.bytes == credit.allowed_bytes


def test_a_lost_abort_is_answered_when_the_other_side_goes_on() -> None:
    world = World(Tap())
    transfer = world.granted()
    world.network.lose(wire.Abort)
    world.receiver.abort(transfer, "no_pages", "taken away")
    world.network.lose()
    world.sender.publish(transfer, np.arange(8), 8)
    world.poll(2)
    world.poll()
    assert world.sent[-1] == Lost(transfer, "no_pages", "taken away")


def test_a_corrupt_frame_drops_the_transfer_on_both_sides() -> None:
    world = World(Tap())

    def damage(frame: Arrived, message: wire.Message) -> Arrived:
        if isinstance(message, wire.Data) and message.seq == 1:
            return frame._replace(body=bytes([frame.body[0] ^ 1]) + bytes(frame.body[1:]))
        return frame

    world.network.change = damage
    transfer = world.landed()
    assert world.sent[-1] == Lost(transfer, "corrupt", "a frame's bytes do not match its checksum")
    assert isinstance(world.received[-1], Dropped)
    assert (world.receiver.counts.corrupt, world.sink.writes) == (1, 1)


def test_frames_swapped_in_the_digest_are_found() -> None:
    world = World(Tap())

    def other(frame: Arrived, message: wire.Message) -> Arrived:
        if isinstance(message, wire.Commit):
            return frame._replace(head=wire.encode(replace(message, digest=message.digest ^ 1), frame.body))
        return frame

    world.network.change = other
    world.landed()
    assert [e.code for e in world.received if isinstance(e, Dropped)] == ["mismatch"]


def test_commit_of_fewer_frames_than_arrived_is_found() -> None:
    world = World(Tap())

    def other(frame: Arrived, message: wire.Message) -> Arrived:
        if isinstance(message, wire.Commit):
            return frame._replace(head=wire.encode(replace(message, frames=message.frames - 1), frame.body))
        return frame

    world.network.change = other
    world.landed()
    assert [e.code for e in world.received if isinstance(e, Dropped)] == ["mismatch"]


def test_commit_may_overtake_data() -> None:
    world = World(Tap())
    held: list[Arrived] = []

    def hold(frame: Arrived, message: wire.Message) -> Arrived | None:
        if isinstance(message, wire.Data):
            held.append(frame)
            return None
        return frame

    world.network.change = hold
    transfer = world.granted(tokens=2)
    world.sender.publish(transfer, np.arange(2), 2)
    world.sender.commit(transfer, b"x", world.now)
    world.poll(2)
    assert Landed not in _kinds(world.received)
    world.receiver_end.inbox += held
    world.poll()
    assert world.received[-1] == Landed(transfer, b"x")


def test_a_frame_that_never_comes_after_commit_stalls_both_sides() -> None:
    world = World(Tap())
    transfer = world.granted(tokens=2)
    world.network.lose(wire.Data)
    world.sender.publish(transfer, np.arange(2), 2)
    world.sender.commit(transfer, b"x", world.now)
    world.poll(2)
    world.now += 10.1
    world.poll()
    assert (world.sent[-1].code, world.received[-1].code) == ("stalled", "stalled")


def _replayed(world: World, repeats: int = 10) -> int:
    """Play every frame that went to the receiver again; returns how many."""
    frames = [frame for target, frame in world.network.seen if target == b"decode"]
    for _ in range(repeats):
        world.receiver_end.inbox.extend(frames)
    return len(frames) * repeats


@pytest.mark.parametrize("end", ["adopt", "abort", "none"])
def test_a_replay_of_every_frame_changes_no_byte(end: str) -> None:
    world = World(Tap())
    transfer = world.landed()
    if end == "adopt":
        world.receiver.adopt(transfer)
    if end == "abort":
        world.receiver.abort(transfer, "x", "y")
    world.sink.kv[:] = 0  # the slots are another's by now
    _replayed(world)
    assert world.receiver.poll(world.now) == []
    assert not world.sink.kv.any()


def test_replayed_frames_are_counted() -> None:
    world = World(Tap())
    world.receiver.adopt(world.landed())
    frames = _replayed(world)
    world.poll()
    assert world.receiver.counts.late == frames


def test_a_replay_while_filling_is_counted_as_duplicate() -> None:
    world = World(Tap())
    transfer = world.granted()
    world.sender.publish(transfer, np.arange(8), 6)
    world.poll(6)
    writes = world.sink.writes
    _replayed(world, 1)
    world.receiver.poll(world.now)
    assert (world.receiver.counts.duplicate, world.sink.writes) == (writes, writes)


def test_another_peer_cannot_speak_for_a_transfer() -> None:
    world = World(Tap())
    world.granted()
    thief = world.network.end("thief")
    transfer = world.network.messages(wire.Grant)[0].transfer
    body = bytes(TOKEN)
    data = wire.Data(transfer, "epoch-p", 0, 0, 1, 0, 2, wire.checksum(body))
    thief.send(Peer(b"decode"), wire.encode(data, body), body)
    thief.send(Peer(b"decode"), wire.encode(wire.Abort(transfer, "epoch-p", "x", "y")), b"")
    assert world.receiver.poll(world.now) == []
    assert (world.receiver.counts.forged, world.sink.writes, world.receiver.open_transfers) == (2, 0, 1)


def test_another_epoch_of_the_same_peer_cannot_speak_for_a_transfer() -> None:
    world = World(Tap())
    transfer = world.granted()
    head = wire.encode(wire.Abort(transfer, "epoch-p2", "x", "y"))
    world.receiver_end.inbox.append(Arrived(Peer(b"prefill"), head, b""))
    assert world.receiver.poll(world.now) == []
    assert world.receiver.counts.forged == 1


@pytest.mark.parametrize(
    ("place", "size"),
    [((0, 1, 0, 2), TOKEN - 1), ((7, 9, 0, 2), 2 * TOKEN), ((0, 1, 0, 3), TOKEN), ((1, 2, 0, 2), TOKEN)],
    ids=["wrong size", "past the end", "no such layer", "below the prefix hit"],
)
def test_a_frame_out_of_range_is_not_written(place: tuple[int, int, int, int], size: int) -> None:
    world = World(Tap())
    transfer = world.granted(tokens=8, have=2 if place[0] == 1 else 0)
    body = bytes(size)
    head = wire.encode(wire.Data(transfer, "epoch-p", 0, *place, checksum=wire.checksum(body)), body)
    world.receiver_end.inbox.append(Arrived(Peer(b"prefill"), head, body))
    world.poll()
    assert (world.receiver.counts.out_of_range, world.sink.writes) == (1, 0)


def test_a_frame_beyond_its_credit_is_not_written() -> None:
    world = World(Tap())
    transfer = world.granted(tokens=8)
    body = bytes(3 * TOKEN)
    head = wire.encode(wire.Data(transfer, "epoch-p", 0, 0, 3, 0, 2, wire.checksum(body)), body)
    world.receiver_end.inbox.append(Arrived(Peer(b"prefill"), head, body))
    world.poll()
    assert (world.receiver.counts.out_of_range, world.sink.writes) == (1, 0)


def test_noise_is_counted() -> None:
    world = World()
    world.receiver_end.inbox.append(Arrived(Peer(b"prefill"), b"noise", b""))
    world.sender_end.inbox.append(Arrived(Peer(b"decode"), b"noise", b""))
    world.poll()
    assert (world.receiver.counts.malformed, world.sender.counts.malformed) == (1, 1)


def test_data_for_an_unknown_transfer_is_answered_with_abort() -> None:
    world = World(Tap())
    unknown = TransferId("ab" * 16)
    body = bytes(TOKEN)
    head = wire.encode(wire.Data(unknown, "epoch-p", 0, 0, 1, 0, 2, wire.checksum(body)), body)
    world.receiver_end.inbox.append(Arrived(Peer(b"prefill"), head, body))
    world.poll()
    assert [m.code for m in world.network.messages(wire.Abort)] == ["unknown"]
    assert (world.receiver.counts.unknown, world.sender.counts.unknown) == (1, 1)


def test_a_grant_that_cannot_be_is_not_taken() -> None:
    world = World(Tap())
    world.network.change = lambda frame, message: (
        frame._replace(head=wire.encode(replace(message, have_tokens=9)))
        if isinstance(message, wire.Grant)
        else frame
    )
    world.granted(tokens=8)
    world.poll()
    assert (world.sent[-1].code, world.received[-1].code) == ("bad_grant", "bad_grant")


def test_the_deadline_ends_a_reservation_that_nobody_answers() -> None:
    world = World()
    transfer = world.reserve(deadline_s=5)
    world.poll()
    world.now += 5.1
    world.poll()
    assert (world.sent, world.received[1:]) == (
        [Lost(transfer, "deadline", "deadline passed")],
        [Dropped(transfer, "deadline", "deadline passed")],
    )


def test_the_deadline_needs_no_peer() -> None:
    world = World(Tap())
    transfer = world.granted()
    world.network.change = lambda frame, message: None
    world.now += 60.1
    assert world.receiver.poll(world.now) == [Dropped(transfer, "deadline", "deadline passed")]
    assert world.sender.poll(world.now) == [Lost(transfer, "deadline", "deadline passed")]


def test_a_grant_after_the_end_is_false_and_keeps_nothing() -> None:
    world = World()
    transfer = world.reserve()
    world.poll()
    world.sender.abort(transfer, "client_gone", "the client hung up")
    world.poll()
    assert world.received[-1] == Dropped(transfer, "client_gone", "the client hung up")
    assert not world.receiver.grant(transfer, 0, world.target(8))
    assert world.receiver.credit_bytes == 0


def test_an_abort_in_the_same_breath_as_landed_makes_adopt_false() -> None:
    world = World()
    transfer = world.granted(tokens=2)
    world.sender.publish(transfer, np.arange(2), 2)
    world.sender.commit(transfer, b"", world.now)
    world.sender.poll(world.now)
    world.sender.abort(transfer, "client_gone", "gone")
    assert _kinds(world.receiver.poll(world.now)) == [Landed, Dropped]
    assert not world.receiver.adopt(transfer)


def test_a_dead_receiver_ends_its_transfers_at_the_sender() -> None:
    world = World()
    transfer = world.granted()
    world.network.leave(Peer(b"decode"))
    world.poll()
    assert world.sent[-1] == Lost(transfer, "peer_lost", "the receiving node cannot be reached")


def test_a_dead_sender_ends_its_transfers_at_the_receiver() -> None:
    world = World()
    transfer = world.granted()
    world.network.leave(Peer(b"prefill"))
    world.now += 0.3
    world.poll()
    assert world.received[-1] == Dropped(transfer, "peer_lost", "the sending node cannot be reached")


def test_a_sender_that_dies_after_landed_can_be_done_without() -> None:
    world = World()
    transfer = world.landed()
    world.network.leave(Peer(b"prefill"))
    world.now += 0.3
    world.poll()
    assert world.receiver.adopt(transfer)


def test_publishing_before_the_grant_is_our_own_mistake() -> None:
    world = World()
    transfer = world.reserve(tokens=1)
    with pytest.raises(LocalProtocolError):
        world.sender.publish(transfer, np.arange(1), 1)


def test_committing_before_the_grant_is_our_own_mistake() -> None:
    world = World()
    transfer = world.reserve(tokens=1)
    with pytest.raises(LocalProtocolError):
        world.sender.commit(transfer, b"", world.now)


def test_committing_before_everything_is_published_is_our_own_mistake() -> None:
    world = World()
    transfer = world.granted(tokens=8)
    world.sender.publish(transfer, np.arange(8), 7)
    with pytest.raises(LocalProtocolError, match="7 of 8"):
        world.sender.commit(transfer, b"", world.now)


def test_granting_twice_is_our_own_mistake() -> None:
    world = World()
    transfer = world.granted()
    with pytest.raises(LocalProtocolError, match="twice"):
        world.receiver.grant(transfer, 0, world.target(8))
    assert world.receiver.credit_bytes == LIMITS.frame_bytes


def test_adopting_before_landed_is_our_own_mistake() -> None:
    world = World()
    transfer = world.granted()
    with pytest.raises(LocalProtocolError):
        world.receiver.adopt(transfer)


def test_calls_after_the_end_do_nothing() -> None:
    world = World()
    transfer = world.granted()
    world.sender.abort(transfer, "x", "y")
    world.sender.publish(transfer, np.arange(8), 8)
    world.sender.commit(transfer, b"", world.now)
    world.sender.abort(transfer, "x", "y")
    world.poll()
    assert _kinds(world.sent) == [Granted]


def test_closing_the_sender_tells_the_receiver() -> None:
    world = World()
    transfer = world.granted()
    world.sender.close()
    assert world.receiver.poll(world.now) == [Dropped(transfer, "closed", "the sender is shutting down")]


def test_hidden_and_exposed_time_are_told_apart() -> None:
    world, ticks = World(), itertools.count()
    for end in (world.sender, world.receiver):
        end._stopwatch = lambda: next(ticks) / 1000  # whatever is worked on takes a millisecond
    transfer = world.granted(tokens=4)
    world.sender.publish(transfer, np.arange(4), 2)
    world.poll(2)
    world.now += 5.0  # compute
    world.sender.publish(transfer, np.arange(4), 4)
    world.sender.commit(transfer, b"", world.now)
    world.poll()
    world.now += 0.003
    world.poll()
    world.receiver.adopt(transfer)
    world.poll()
    stats = world.sent[-1].stats
    assert (stats.bytes, stats.frames, stats.hidden_bytes) == (4 * TOKEN, 2, 2 * TOKEN)
    assert stats.hidden_ms == pytest.approx(2)  # one at each end, of one frame
    assert stats.exposed_ms == pytest.approx(3)


def test_a_group_of_layers_goes_before_the_next_one_is_computed() -> None:
    world = World(groups=2)
    transfer = world.granted(tokens=2)
    world.sender.publish(transfer, np.arange(2), 2, layers=1)
    world.poll(2)
    assert (world.sender.counts.bytes, world.receiver.counts.bytes) == (TOKEN, TOKEN)
    with pytest.raises(LocalProtocolError):
        world.sender.commit(transfer, b"", world.now)
    world.sender.publish(transfer, np.arange(2), 2)
    world.sender.commit(transfer, b"first", world.now)
    world.poll(3)
    assert world.received[-1] == Landed(transfer, b"first")
    assert world.sink.tokens(world.target(2)) == world.source.tokens(np.arange(2))


def test_layers_do_not_go_back_below_what_was_published() -> None:
    world = World(groups=2)
    transfer = world.granted(tokens=4)
    world.sender.publish(transfer, np.arange(4), 3, layers=1)
    for computed, layers in ((2, 1), (2, 2), (4, 0), (4, 3), (5, 2)):
        with pytest.raises(LocalProtocolError):
            world.sender.publish(transfer, np.arange(8), computed, layers)


def test_due_in_names_the_next_deadline() -> None:
    world = World()
    world.reserve(deadline_s=0.4)
    assert world.sender.due_in(world.now) == pytest.approx(0.4)


def test_what_was_published_or_committed_is_due_at_once() -> None:
    world = World()
    transfer = world.granted(tokens=4)
    assert world.sender.due_in(world.now) > 0.1
    world.sender.publish(transfer, np.arange(4), 4)
    assert world.sender.due_in(world.now) == 0.0
    world.poll()
    assert world.sender.due_in(world.now) > 0.1
    world.sender.commit(transfer, b"", world.now)
    assert world.sender.due_in(world.now) == 0.0


def test_what_one_poll_sends_is_bounded_and_the_rest_is_due_at_once() -> None:
    world = World()
    world.sender._poll_bytes = 1
    first, second = world.reserve(), world.reserve()
    world.poll()
    for transfer in (first, second):
        world.receiver.grant(transfer, 0, world.target(8))
    world.poll()
    for transfer in (first, second):
        world.sender.publish(transfer, np.arange(8), 8)
    world.sender.poll(world.now)
    assert (world.sender.counts.frames, world.sender.due_in(world.now)) == (1, 0.0)


def test_the_layout_of_a_big_model_fits_the_default_limits() -> None:
    layout = KVLayout(80, 64, 128, "float32", "70b")
    Receiver(Loopback().end("decode"), Store(1), layout, "epoch-d")


def test_a_frame_that_cannot_hold_one_layer_of_a_token_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        Receiver(
            Loopback().end("decode"), Store(1), LAYOUT, "epoch-d", replace(LIMITS, frame_bytes=TOKEN // 2 - 1)
        )


def test_a_frame_of_another_major_version_is_counted_as_such_at_both_ends() -> None:
    world = World()
    head = bytearray(wire.encode(wire.Abort("0" * 32, "epoch-d", "x", "y")))
    head[4] += 1
    for end in (world.sender_end, world.receiver_end):
        end.inbox.append(Arrived(Peer(b"stranger"), bytes(head), b""))
    world.poll()
    assert (world.sender.counts.version, world.receiver.counts.version) == (1, 1)
    assert (world.sender.counts.malformed, world.receiver.counts.malformed) == (0, 0)
