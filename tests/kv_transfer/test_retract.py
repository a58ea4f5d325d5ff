"""Published tokens leave the store before they were sent, and come again elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kv_world import LIMITS, TOKEN, World

from kv_transfer import Landed, TransferId
from kv_transfer.store import Slots
from pagewire.errors import LocalProtocolError

OLD, NEW = np.arange(8), np.arange(40, 48)


def _streaming(world: World, computed: int) -> TransferId:
    """A transfer of 8 tokens, of which ``computed`` were published from OLD and sent."""
    transfer = world.granted(tokens=8)
    world.sender.publish(transfer, OLD, computed)
    world.poll(8)
    return transfer


def _preempt(world: World, transfer: TransferId) -> bytes:
    """Retract, compute the same KV at NEW, and give OLD to another. Returns the KV."""
    world.sender.retract(transfer)
    kv = world.source.tokens(OLD)
    world.source.kv[:, :, NEW] = world.source.kv[:, :, OLD]
    world.source.kv[:, :, OLD] = 0
    return kv


def _finish(world: World, transfer: TransferId) -> bytes:
    """Publish all from NEW, commit, and return what landed."""
    world.sender.publish(transfer, NEW, 8)
    world.sender.commit(transfer, b"", world.now)
    world.poll(10)
    assert isinstance(world.received[-1], Landed)
    return world.sink.tokens(world.target(8))


def _never(slots: Slots) -> None:
    pytest.fail(f"slots {slots} were read")


def test_retracted_tokens_are_not_read() -> None:
    world = World()
    transfer = world.granted(tokens=8)
    world.sender.publish(transfer, OLD, 8)
    world.sender.retract(transfer)
    world.source.check_read = _never
    world.poll(4)
    assert world.sender.counts.frames == 0


@pytest.mark.parametrize("sent", [0, 1, 5, 8])
def test_tokens_that_come_again_elsewhere_land_the_same_bytes(sent: int) -> None:
    world = World()
    transfer = _streaming(world, sent)
    assert _preempt(world, transfer) == _finish(world, transfer)


def test_what_was_sent_is_not_sent_again() -> None:
    world = World()
    transfer = _streaming(world, 5)
    _preempt(world, transfer)
    _finish(world, transfer)
    assert world.sender.counts.bytes == 8 * TOKEN


def test_fewer_tokens_than_were_sent_may_be_published_again() -> None:
    world = World()
    transfer = _streaming(world, 5)
    kv = _preempt(world, transfer)
    world.source.check_read = _never
    for computed in (2, 5):
        world.sender.publish(transfer, NEW, computed)
        world.poll(2)
    world.source.check_read = lambda slots: None
    assert kv == _finish(world, transfer)


def test_a_token_of_which_some_layers_are_out_goes_on_with_the_next_layer() -> None:
    world = World(limits=replace(LIMITS, frame_bytes=TOKEN // 2))
    transfer = world.granted(tokens=8)
    world.sender.publish(transfer, OLD, 8)
    world.sender.poll(world.now)
    assert world.sender.counts.frames == 1
    assert _preempt(world, transfer) == _finish(world, transfer)


def test_a_frame_that_the_wire_did_not_take_is_read_from_the_new_slots() -> None:
    world = World()
    transfer = world.granted(tokens=8)
    world.sender.publish(transfer, OLD, 8)
    send, world.sender_end.send = world.sender_end.send, lambda peer, head, body: False
    world.sender.poll(world.now)
    world.sender_end.send = send
    assert _preempt(world, transfer) == _finish(world, transfer)


def test_a_wire_without_room_costs_no_read() -> None:
    world = World()
    transfer = world.granted(tokens=8)
    world.sender.publish(transfer, OLD, 8)
    world.sender_end.room = lambda peer, size: None
    world.source.check_read = _never
    world.poll(2)
    assert world.sender.counts.frames == 0


def test_committing_with_retracted_tokens_is_our_own_mistake() -> None:
    world = World()
    transfer = _streaming(world, 8)
    world.sender.retract(transfer)
    with pytest.raises(LocalProtocolError, match="0 of 8"):
        world.sender.commit(transfer, b"", world.now)


def test_retracting_before_the_grant_is_our_own_mistake() -> None:
    world = World()
    transfer = world.reserve()
    with pytest.raises(LocalProtocolError, match="RESERVING"):
        world.sender.retract(transfer)


def test_retracting_after_commit_is_our_own_mistake() -> None:
    world = World()
    transfer = _streaming(world, 8)
    world.sender.commit(transfer, b"", world.now)
    with pytest.raises(LocalProtocolError, match="FLUSHING"):
        world.sender.retract(transfer)


def test_retracting_after_the_end_does_nothing() -> None:
    world = World()
    transfer = _streaming(world, 8)
    world.sender.abort(transfer, "x", "y")
    world.sender.retract(transfer)
    assert world.sender.open_transfers == 0
