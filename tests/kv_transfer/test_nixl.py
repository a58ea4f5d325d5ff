"""The wire whose bodies are READ by NIXL: both ends in this process, each with a NIXL process of its own.

Everything runs with a stand-in for NIXL, which can be made to misbehave, and where NIXL is installed most of
it with NIXL.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import nixl_kinds
import psutil
import pytest

from kv_transfer.transports import nixl_reads, open_receiver
from kv_transfer.transports.base import LandingRoom, Peer
from kv_transfer.transports.nixl import NixlListener
from kv_transfer.transports.nixl_dialer import NixlDialer
from kv_transfer.transports.ring import START, Ref
from pagewire.errors import ConfigError

pytestmark = pytest.mark.soak  # processes that die and are started again: some twenty seconds

SIZE = 32 << 10  # large enough for the ring
SECRET = b"s" * 32


class Pair:
    """A dialer and a listener; what is lent can be read, unless ``wait`` says not to wait for it."""

    def __init__(
        self, landing: LandingRoom | None = None, *, bodies: int = 3, until: str = "read", ring: int = 0
    ) -> None:
        self.listener = NixlListener("nixl://127.0.0.1:*", SECRET, landing, ring_bytes=ring or bodies * SIZE)
        self.dialer = NixlDialer(SECRET, ring_bytes=bodies * SIZE)
        self.peer = Peer(self.listener.address.encode())
        self.taken: list[tuple[bytes, bytes]] = []
        self.lost = (False, False)
        assert self.dialer.send(self.peer, b"hello", b"")
        self.until(lambda: bool(getattr(self.link, until)))
        self.taken.clear()

    @property
    def link(self):
        return self.dialer._links[self.peer]

    @property
    def processes(self) -> list[int]:
        return [self.dialer._process.pid, self.listener._reads._process.pid]

    def turn(self) -> None:
        for arrived in self.listener.receive():
            self.sender = arrived.peer
            self.taken.append((arrived.head, bytes(arrived.body)))
        assert list(self.dialer.receive()) == []

    def until(self, wanted: Callable[[], bool], limit: float = 30.0) -> None:
        stop = time.monotonic() + limit
        while not wanted():
            assert time.monotonic() < stop
            self.turn()
            time.sleep(0.0005)

    def send(self, body: bytes, head: bytes = b"head") -> bool:
        room = self.dialer.room(self.peer, len(body))
        if room is None:
            return False
        room[:] = body
        return self.dialer.send(self.peer, head, room)

    def gone(self) -> tuple[bool, bool]:
        """Which end has lost the other; once is enough."""
        self.turn()
        here, there = bool(self.listener.lost([self.sender])), bool(self.dialer.lost([self.peer]))
        self.lost = (self.lost[0] or here, self.lost[1] or there)
        return self.lost

    def close(self) -> None:
        self.dialer.close()
        self.listener.close()


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(params=nixl_kinds.KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch, faults: Path, sockets: Path) -> str:
    nixl_kinds.use(request.param, monkeypatch, faults)
    return request.param


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, faults: Path, sockets: Path) -> None:
    nixl_kinds.use("stand-in", monkeypatch, faults)


@pytest.fixture
def pair(kind: str) -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_every_body_comes_in_its_turn_between_frames_that_need_no_read(pair: Pair) -> None:
    sent = []
    for i in range(40):
        frames = [(b"read", bytes([i]) * (SIZE + i % 3)), (b"inline", b"%d" % i), (b"alone", b"")][
            : 1 + i % 3
        ]
        for head, body in frames:
            pair.until(partial(pair.send, body, head))
            sent.append((head, body))
    pair.until(lambda: len(pair.taken) == len(sent))
    assert pair.taken == sent


def test_a_full_ring_has_no_room_until_bodies_were_read(pair: Pair) -> None:
    assert all(pair.send(bytes(SIZE)) for _ in range(3))
    assert pair.dialer.room(pair.peer, SIZE) is None
    pair.until(lambda: pair.link.ring.used == 0)
    assert len(pair.taken) == 3
    assert pair.dialer.room(pair.peer, SIZE) is not None


def test_a_reference_that_cannot_be_reads_nothing_and_harms_nobody(pair: Pair) -> None:
    end = START + 3 * SIZE
    bad = [
        Ref(end - SIZE + 1, SIZE, 1), Ref(0, 16, 1), Ref(START, 0, 1), Ref((1 << 64) - SIZE, SIZE, 1),
        Ref(START, (8 << 20) + 1, 1), Ref(START, (1 << 64) - 1, 1),
    ]  # fmt: skip
    count = pair.listener._reads._count
    for word in [*(ref.pack() for ref in bad), b"", b"x" * 23]:
        pair.dialer._dealers.send(Peer(pair.peer.replace(b"nixl", b"tcp")), (b"forged", b"", word))
    pair.until(lambda: len(pair.taken) == len(bad) + 2)
    assert set(pair.taken) == {(b"forged", b"")}
    assert pair.listener._reads._count == count, "something was read"
    assert pair.send(b"g" * SIZE)
    pair.until(lambda: pair.taken[-1] == (b"head", b"g" * SIZE))


def test_a_body_lands_in_the_memory_that_is_given_for_it(kind: str) -> None:
    asked: list[memoryview] = []

    def landing(size: int) -> memoryview:
        asked.append(memoryview(bytearray(size)))
        return asked[-1]

    pair = Pair(landing)
    assert pair.send(bytes([7]) * SIZE)
    pair.until(lambda: bool(pair.taken))
    pair.close()
    assert asked == [bytes([7]) * SIZE]
    assert pair.taken == [(b"head", bytes([7]) * SIZE)]


def test_a_senders_process_that_is_killed_ends_the_link_at_both_ends(pair: Pair) -> None:
    assert pair.send(bytes(SIZE))
    pair.until(lambda: bool(pair.taken))
    psutil.Process(pair.processes[0]).kill()
    pair.send(bytes(SIZE))
    pair.until(lambda: pair.gone() == (True, True), 10.0)
    pair.dialer.forget(pair.peer)
    assert pair.dialer.send(pair.peer, b"again", b"")
    pair.until(lambda: pair.link.read)
    assert pair.send(b"n" * SIZE)
    pair.until(lambda: pair.taken[-1] == (b"head", b"n" * SIZE))


def test_a_receivers_process_that_is_killed_loses_nothing(pair: Pair) -> None:
    bodies = [bytes([i]) * SIZE for i in range(1, 7)]
    assert pair.send(bodies[0])
    psutil.Process(pair.processes[1]).kill()
    for body in bodies[1:]:
        pair.until(partial(pair.send, body))
    pair.until(lambda: len(pair.taken) == len(bodies))
    assert [body for _, body in pair.taken] == bodies
    assert pair.gone() == (False, False)


def test_lent_memory_is_given_back_with_the_link(pair: Pair) -> None:
    def mapped() -> int:
        return sum(Path(f"/proc/{pid}/maps").read_text().count("pagewire-ring") for pid in pair.processes)

    assert mapped() == 2
    pair.dialer.forget(pair.peer)
    pair.until(lambda: pair.listener.lost([]) == [] and mapped() == 0, 10.0)


def test_idle_processes_do_nothing(pair: Pair) -> None:
    assert pair.send(bytes(SIZE))
    pair.until(lambda: bool(pair.taken) and not pair.link.ring.used)
    time.sleep(0.1)
    before = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pair.processes]
    time.sleep(1.0)
    after = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pair.processes]
    assert max(a - b for a, b in zip(after, before, strict=True)) < 0.1


def test_nothing_listens_beyond_loopback(pair: Pair) -> None:
    assert pair.send(bytes(SIZE))
    pair.until(lambda: bool(pair.taken))
    for pid in pair.processes:
        for connection in psutil.Process(pid).net_connections("inet"):
            assert connection.laddr.ip == "127.0.0.1"


def test_descriptors_and_processes_are_given_back(kind: str) -> None:
    def once() -> tuple[int, int]:
        pair = Pair()
        assert pair.send(bytes(SIZE))
        pair.until(lambda: bool(pair.taken))
        pair.close()
        return len(os.listdir("/proc/self/fd")), len(psutil.Process().children())

    assert once() == once()
    assert psutil.Process().children() == []


# --- faults on demand ---------------------------------------------------------------------------------------


def test_a_read_that_does_not_return_is_ended_with_its_process(
    stand_in: None, faults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nixl_reads, "READ_S", 0.5)
    pair = Pair()
    stuck = pair.processes[1]
    (faults / "hang").touch()
    bodies = [bytes([i]) * SIZE for i in (1, 2, 3)]
    assert all(pair.send(body) for body in bodies)
    pair.until(lambda: pair.processes[1] != stuck)
    assert not psutil.pid_exists(stuck)
    (faults / "hang").unlink()
    pair.until(lambda: len(pair.taken) == 3)
    assert [body for _, body in pair.taken] == bodies
    pair.close()


@pytest.mark.parametrize("fault", ["fail", "die"])
def test_reads_that_keep_failing_end_the_link_and_the_listener_goes_on(
    fault: str, stand_in: None, faults: Path
) -> None:
    pair = Pair()
    (faults / fault).touch()
    assert pair.send(bytes(SIZE))
    assert pair.dialer.send(pair.peer, b"behind it", b"")
    pair.until(lambda: pair.gone() == (True, True))
    assert pair.taken == [], "a frame came out of its turn"
    assert not pair.send(bytes(SIZE))
    (faults / fault).unlink()
    pair.dialer.forget(pair.peer)
    assert pair.dialer.send(pair.peer, b"again", b"")
    pair.until(lambda: pair.link.read)
    pair.close()


@pytest.mark.parametrize("fault", ["lie", "fail"])
def test_what_cannot_be_read_from_the_start_goes_through_the_socket(
    fault: str, stand_in: None, faults: Path
) -> None:
    (faults / fault).touch()
    pair = Pair(until="unread")
    assert pair.send(b"b" * SIZE)
    pair.until(lambda: bool(pair.taken))
    assert pair.taken == [(b"head", b"b" * SIZE)]
    assert pair.gone() == (False, False)
    pair.close()


def test_a_link_does_not_wait_for_another_ones_reads(stand_in: None, faults: Path) -> None:
    pair = Pair()
    other = NixlDialer(SECRET)
    (faults / "slow").write_bytes(b"x" * (1 << 30).bit_length() * 1000)
    assert pair.send(bytes(SIZE))
    assert other.send(pair.peer, b"quick", b"")
    pair.until(lambda: bool(pair.taken))
    assert pair.taken[0] == (b"quick", b"")
    other.close()
    pair.close()


def test_a_ring_of_ours_that_is_too_small_for_all_takes_them_one_after_the_other(stand_in: None) -> None:
    pair = Pair(bodies=6, ring=2 * SIZE)
    bodies = [bytes([i]) * SIZE for i in range(6)]
    assert all(pair.send(body) for body in bodies)
    pair.until(lambda: len(pair.taken) == 6)
    assert [body for _, body in pair.taken] == bodies
    pair.close()


def test_a_sender_without_nixl_sends_through_the_socket(
    stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_transfer.transports.nixl_dialer.has_nixl", lambda: False)
    listener, dialer = NixlListener("nixl://127.0.0.1:*", SECRET), NixlDialer(SECRET)
    peer = Peer(listener.address.encode())
    room = dialer.room(peer, SIZE)
    assert room is not None
    assert dialer.send(peer, b"head", room)
    taken: list[int] = []
    stop = time.monotonic() + 10
    while not taken:
        assert time.monotonic() < stop
        taken += [len(arrived.body) for arrived in listener.receive()]
    assert taken == [SIZE]
    assert dialer._process is None
    dialer.close()
    listener.close()


# --- what is refused ----------------------------------------------------------------------------------------


def test_beyond_loopback_only_if_the_network_is_trusted(stand_in: None) -> None:
    with pytest.raises(ConfigError, match="--trusted-network"):
        open_receiver("nixl://0.0.0.0:*", SECRET)
    with pytest.raises(ConfigError, match="--cluster-secret-file"):
        open_receiver("nixl://0.0.0.0:*", None, trusted=True)


def test_a_sender_does_not_lend_beyond_loopback_unasked(stand_in: None) -> None:
    dialer = NixlDialer(SECRET)
    dialer.send(Peer(b"nixl://192.0.2.1:9"), b"hello", b"")
    assert (dialer._process, dialer._links) == (None, {})
    dialer.close()


def test_without_nixl_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_transfer.transports.nixl_process.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'pagewire\[nixl\]'"):
        open_receiver("nixl://127.0.0.1:*", SECRET)


def test_a_nixl_that_does_not_start_is_said_at_once(stand_in: None, faults: Path) -> None:
    (faults / "absent").touch()
    with pytest.raises(ConfigError, match="NIXL does not start"):
        open_receiver("nixl://127.0.0.1:*", SECRET)
    assert psutil.Process().children() == []
