from __future__ import annotations

from dataclasses import fields

import pytest
from kv_world import TOKEN, World

from kv_transfer import ReceiverCounts, SenderCounts, gauges


def test_a_senders_gauges_tell_what_is_open_and_what_was_sent() -> None:
    world = World()
    world.receiver.adopt(world.landed(8))
    world.poll()
    world.reserve()
    figures = gauges(world.sender)
    names = ("transfers_open", "transfer_reserved", "transfer_done", "transfer_bytes")
    assert [figures[name] for name in names] == [1, 2, 1, 8 * TOKEN]


def test_a_receivers_gauges_tell_what_is_open_and_what_was_written() -> None:
    world = World()
    world.landed(8)
    figures = gauges(world.receiver)
    names = ("transfers_open", "transfer_landed", "transfer_adopted", "transfer_bytes")
    assert [figures[name] for name in names] == [1, 1, 0, 8 * TOKEN]


@pytest.mark.parametrize("counts", [SenderCounts, ReceiverCounts])
def test_every_count_is_a_gauge(counts: type) -> None:
    world = World()
    end = world.sender if counts is SenderCounts else world.receiver
    names = {"transfers_open", "transfer_credit_bytes"} | {f"transfer_{f.name}" for f in fields(counts)}
    assert gauges(end).keys() == names
    assert all(type(value) is float for value in gauges(end).values())
