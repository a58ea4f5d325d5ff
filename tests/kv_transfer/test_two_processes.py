"""Real sockets, two processes, real signals. Times are those that the nodes promise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from far_end import TOKENS
from kv_world import LAYOUT, Store

from kv_transfer import (
    Done,
    Dropped,
    Granted,
    Landed,
    Limits,
    Lost,
    Receiver,
    Reserved,
    Sender,
    open_receiver,
    open_sender,
)

ADDRESSES = ["tcp://127.0.0.1:*", "shm://*"]


@pytest.fixture(autouse=True)
def _own_folder(sockets: Path) -> None:
    """Each test has a folder for itself."""


@pytest.fixture
def far() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        root = Path(__file__).parents[2]
        env = os.environ | {"PYTHONPATH": f"{root}:{Path(__file__).parent}"}
        command = [sys.executable, str(Path(__file__).with_name("far_end.py")), *words]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def _until(end: Sender | Receiver, wanted: Callable[[list], bool], limit: float = 20.0) -> list:
    """Poll until ``wanted`` of all events so far; they are returned."""
    events: list = []
    stop = time.monotonic() + limit
    while not wanted(events):
        now = time.monotonic()
        assert now < stop, f"nothing but {events} in {limit} s"
        for event in end.poll(now):
            events.append(event)
            match event:
                case Reserved(transfer, num_tokens=tokens):
                    end.grant(transfer, 0, np.arange(tokens))
                case Landed(transfer):
                    end.adopt(transfer)
                case Granted(transfer):
                    end.publish(transfer, np.arange(TOKENS), TOKENS)
                    end.commit(transfer, b"first", now)
    return events


def _kill(child: subprocess.Popen[str]) -> float:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return time.monotonic()


@pytest.mark.parametrize("address", ADDRESSES)
def test_bytes_come_through_from_another_process(address: str, far) -> None:
    sink = Store(TOKENS)
    receiver = Receiver(open_receiver(address), sink, LAYOUT, "near-d")
    far("sender", receiver.address, "whole")
    events = _until(receiver, lambda e: any(isinstance(x, Landed) for x in e))
    receiver.close()
    assert events[-1].payload == b"first"
    assert np.array_equal(sink.kv, Store(TOKENS, seed=7).kv)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_sender_that_is_killed_in_the_middle_is_noticed_and_leaves_nothing(address: str, far) -> None:
    shared = set(os.listdir("/dev/shm"))
    receiver = Receiver(open_receiver(address), Store(TOKENS), LAYOUT, "near-d")
    child = far("sender", receiver.address)
    half = TOKENS // 2 * LAYOUT.token_bytes
    _until(receiver, lambda e: receiver.counts.bytes == half)
    killed = _kill(child)
    events = _until(receiver, lambda e: bool(e))
    assert isinstance(events[0], Dropped)
    assert events[0].code == "peer_lost"
    assert time.monotonic() - killed < 3.0
    assert (receiver.open_transfers, receiver.credit_bytes) == (0, 0)
    receiver.close()
    assert set(os.listdir("/dev/shm")) <= shared


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_receiver_that_is_killed_in_the_middle_is_noticed(address: str, far) -> None:
    child = far("receiver", address)
    assert child.stdout is not None
    target = child.stdout.readline().strip()
    sender = Sender(open_sender(), Store(TOKENS, seed=7), LAYOUT, "near-p")
    transfer = sender.reserve(target, TOKENS + 1, b"", 60.0, time.monotonic())
    while not any(isinstance(e, Granted) for e in sender.poll(time.monotonic())):
        time.sleep(0.001)
    sender.publish(transfer, np.arange(TOKENS), TOKENS)
    sender.poll(time.monotonic())
    killed = _kill(child)
    events = _until(sender, lambda e: bool(e))
    assert isinstance(events[0], Lost)
    assert time.monotonic() - killed < 3.0
    sender.close()


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_receiver_that_came_back_is_found_again(address: str, far, tmp_path: Path) -> None:
    if address.startswith("shm"):
        address = f"shm://{tmp_path}/kv.sock"
    first = far("receiver", address)
    assert first.stdout is not None
    target = first.stdout.readline().strip()
    sender = Sender(open_sender(), Store(TOKENS, seed=7), LAYOUT, "near-p")
    sender.reserve(target, TOKENS, b"", 60.0, time.monotonic())
    _until(sender, lambda e: any(isinstance(x, Done) for x in e))
    _kill(first)
    second = far("receiver", target)
    assert second.stdout is not None
    assert second.stdout.readline().strip() == target
    sender.reserve(target, TOKENS, b"", 60.0, time.monotonic())
    events = _until(sender, lambda e: any(isinstance(x, Done | Lost) for x in e))
    sender.close()
    assert isinstance(events[-1], Done)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_dead_link_wakes_the_sender_once_and_not_for_ever(address: str, far) -> None:
    child = far("receiver", address)
    assert child.stdout is not None
    sender = Sender(open_sender(), Store(TOKENS), LAYOUT, "near-p")
    sender.reserve(child.stdout.readline().strip(), TOKENS, b"", 60.0, time.monotonic())
    _until(sender, lambda e: any(isinstance(x, Done) for x in e))
    poller = zmq.Poller()
    for socket in sender.sockets():
        poller.register(socket, zmq.POLLIN)
    _kill(child)
    assert poller.poll(3000)
    _until(sender, lambda e: not sender.sockets(), limit=3.0)
    sender.close()


@pytest.mark.parametrize(
    "target", ["tcp://127.0.0.1:9", "shm:///nowhere/kv.sock", "tcp://not an address", "x"]
)
def test_nobody_at_the_address_is_noticed_at_once(target: str) -> None:
    sender = Sender(open_sender(), Store(4), LAYOUT, "near-p")
    sender.reserve(target, 4, b"", 60.0, time.monotonic())
    events = _until(sender, lambda e: bool(e), limit=3.0)
    sender.close()
    assert [e.code for e in events] == ["peer_lost"]


def test_the_folder_of_a_killed_receiver_is_swept_by_the_next(far, tmp_path: Path) -> None:
    child = far("receiver", "shm://*")
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip().removeprefix("shm://")).parent
    _kill(child)
    assert left.exists()
    receiver = open_receiver("shm://*")
    assert not left.exists()
    receiver.close()
    assert list(tmp_path.iterdir()) == []


def test_the_socket_is_for_its_owner_only() -> None:
    receiver = open_receiver("shm://*")
    path = Path(receiver.address.removeprefix("shm://"))
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    receiver.close()


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("key", [None, b"w" * 32], ids=["no key", "wrong key"])
def test_without_the_secret_nothing_gets_through(address: str, key: bytes | None) -> None:
    receiver = Receiver(open_receiver(address, b"s" * 32), Store(4), LAYOUT, "near-d")
    sender = Sender(open_sender(key), Store(4), LAYOUT, "near-p")
    sender.reserve(receiver.address, 4, b"", 60.0, time.monotonic())
    events = _until(sender, lambda e: bool(e) or bool(receiver.poll(time.monotonic())), limit=10.0)
    sender.close()
    receiver.close()
    assert [type(e) for e in events] == [Lost]
    assert receiver.counts.reserved == receiver.counts.malformed == 0


@pytest.mark.parametrize("address", ADDRESSES)
def test_descriptors_are_given_back(address: str) -> None:
    def round_trip() -> int:
        receiver = Receiver(open_receiver(address, b"s" * 32), Store(4), LAYOUT, "near-d", Limits())
        sender = Sender(open_sender(b"s" * 32), Store(4), LAYOUT, "near-p")
        sender.reserve(receiver.address, 4, b"", 60.0, time.monotonic())
        _until(receiver, lambda e: bool(e) or bool(sender.poll(time.monotonic())))
        sender.close()
        receiver.close()
        return len(os.listdir("/proc/self/fd"))

    round_trip()
    assert round_trip() == round_trip()
