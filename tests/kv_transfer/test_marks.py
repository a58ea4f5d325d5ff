"""Tokens that are published before a device has computed them."""

from __future__ import annotations

import numpy as np
from kv_world import Store, World

from kv_transfer import Landed, TransferId


class Mark:
    def __init__(self) -> None:
        self.there = False

    def passed(self) -> bool:
        return self.there


class Late(Store):
    """A store beside a device that computes when it is told to."""

    def __init__(self) -> None:
        super().__init__(64, seed=7)
        self.marks: list[Mark] = []

    def mark(self) -> Mark:
        self.marks.append(Mark())
        return self.marks[-1]


def late() -> tuple[World, Late, TransferId]:
    """With a granted transfer of 8 tokens."""
    world, store = World(), Late()
    world.sender._store = store
    return world, store, world.granted(8)


def test_tokens_leave_when_they_are_computed() -> None:
    world, store, transfer = late()
    world.sender.publish(transfer, np.arange(8), 2)
    world.sender.publish(transfer, np.arange(8), 8)
    world.sender.commit(transfer, b"first", world.now)
    world.poll(9)
    assert (world.sender.counts.frames, world.sender.due_in(world.now)) == (0, 0.0)
    store.marks[0].there = True
    world.poll(9)
    assert (world.sender.counts.frames, world.sender.due_in(world.now)) == (1, 0.0)
    store.marks[1].there = True
    world.poll(9)
    assert Landed(transfer, b"first") in world.received
    assert world.sink.tokens(world.target(8)) == store.tokens(np.arange(8))


def test_what_comes_first_comes_first() -> None:
    """A device goes through what it was given in order."""
    world, store, transfer = late()
    world.sender.publish(transfer, np.arange(8), 2)
    world.sender.publish(transfer, np.arange(8), 8)
    store.marks[1].there = True
    world.poll(9)
    assert world.sender.counts.frames == 0


def test_what_is_retracted_is_not_ready_when_it_is_computed() -> None:
    world, store, transfer = late()
    world.sender.publish(transfer, np.arange(8), 8)
    world.sender.retract(transfer)
    store.marks[0].there = True
    world.poll(9)
    assert world.sender.counts.frames == 0


def test_no_mark_is_set_for_what_is_published_again() -> None:
    world, store, transfer = late()
    for layers in (1, 1, 2, 2, 1):
        world.sender.publish(transfer, np.arange(8), 8, layers)
    assert len(store.marks) == 2
