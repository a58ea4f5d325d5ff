"""The shared-memory wire, both ends in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from kv_transfer.transports.base import LandingRoom, Peer
from kv_transfer.transports.shm import ShmDialer, ShmListener

SIZE = 32 << 10  # large enough for the ring


class Pair:
    """A dialer with a ring for three bodies, which the listener has mapped."""

    def __init__(self, landing: LandingRoom | None = None) -> None:
        self.listener = ShmListener("shm://*", landing=landing)
        self.dialer = ShmDialer(ring_bytes=3 * SIZE)
        self.peer = Peer(self.listener.address.encode())
        assert self.dialer.send(self.peer, b"hello", b"")
        self.taken: list[tuple[bytes, bytes]] = []
        self.until(lambda: self.dialer._shared[self.peer].mapped)
        self.taken.clear()

    @property
    def used(self) -> int:
        return self.dialer._shared[self.peer].ring.used

    def turn(self) -> None:
        self.taken += [(a.head, bytes(a.body)) for a in self.listener.receive()]
        assert list(self.dialer.receive()) == []

    def until(self, wanted: Callable[[], bool]) -> None:
        stop = time.monotonic() + 10
        while not wanted():
            assert time.monotonic() < stop
            self.turn()

    def send(self, body: bytes) -> bool:
        room = self.dialer.room(self.peer, len(body))
        if room is None:
            return False
        room[:] = body
        return self.dialer.send(self.peer, b"head", room)


@pytest.fixture
def pair(sockets: Path) -> Iterator[Pair]:
    made = Pair()
    yield made
    made.dialer.close()
    made.listener.close()


def test_bodies_of_one_batch_are_told_apart(pair: Pair) -> None:
    bodies = [bytes([i]) * SIZE for i in (1, 2, 3)]
    assert all(pair.send(body) for body in bodies)
    pair.until(lambda: len(pair.taken) == 3)
    assert [body for _, body in pair.taken] == bodies


def test_many_laps_of_the_ring_bring_every_body(pair: Pair) -> None:
    bodies = [bytes([i]) * (SIZE + i) for i in range(20)]
    for body in bodies:
        pair.until(partial(pair.send, body))
    pair.until(lambda: len(pair.taken) == 20)
    assert [body for _, body in pair.taken] == bodies


def test_a_full_ring_has_no_room_until_the_reader_has_copied(pair: Pair) -> None:
    assert all(pair.send(bytes(SIZE)) for _ in range(3))
    assert pair.dialer.room(pair.peer, SIZE) is None
    pair.until(lambda: pair.used == 0)
    assert pair.dialer.room(pair.peer, SIZE) is not None


def test_a_small_body_goes_inline(pair: Pair) -> None:
    assert pair.send(b"small")
    assert pair.used == 0
    pair.until(lambda: pair.taken == [(b"head", b"small")])


def test_room_that_the_socket_did_not_take_is_given_out_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.dialer._dealers, "send", lambda peer, parts: False)
    assert not any(pair.send(bytes(SIZE)) for _ in range(9))
    assert pair.used == 0


def test_a_link_can_be_forgotten_while_room_in_its_ring_is_held(pair: Pair) -> None:
    room = pair.dialer.room(pair.peer, SIZE)
    pair.dialer.forget(pair.peer)
    assert room is not None
    room[0] = 1


def test_a_body_lands_in_the_memory_that_is_given_for_it(sockets: Path) -> None:
    asked: list[memoryview] = []

    def landing(size: int) -> memoryview:
        asked.append(memoryview(bytearray(size)))
        return asked[-1]

    pair = Pair(landing)
    assert pair.send(bytes([7]) * SIZE)
    pair.until(lambda: bool(pair.taken))
    assert asked == [bytes([7]) * SIZE]
    assert pair.taken == [(b"head", bytes([7]) * SIZE)]
    pair.dialer.close()
    pair.listener.close()
