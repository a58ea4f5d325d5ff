from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import zmq

from pagewire.waiting import Alarm

LONG = 60.0  # seconds: a wait that nothing ends would outlast the test's own limit


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    made = Alarm()
    yield made
    made.close()


@pytest.fixture
def ringing() -> Iterator[Alarm]:
    """One that rings at SIGUSR1, whose handler does nothing."""
    made, before = Alarm(), signal.signal(signal.SIGUSR1, lambda *_: None)
    made.on_signals()
    yield made
    made.close()
    signal.signal(signal.SIGUSR1, before)


def test_a_message_ends_a_wait(alarm: Alarm) -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as ours, context.socket(zmq.PAIR) as theirs:
        ours.bind("inproc://here")
        theirs.connect("inproc://here")
        theirs.send(b"news")
        alarm.wait([ours], LONG)
        assert ours.recv(zmq.NOBLOCK) == b"news"


def test_a_ring_of_another_thread_ends_a_wait(alarm: Alarm) -> None:
    thread = threading.Thread(target=alarm.ring)
    thread.start()
    alarm.wait([], LONG)
    thread.join()


def test_a_ring_before_the_wait_is_not_lost_and_ends_one_wait_only(alarm: Alarm) -> None:
    alarm.ring()
    alarm.ring()
    alarm.wait([], LONG)
    alarm.wait([], 0.0)
    assert not alarm.pending


def test_more_rings_than_anybody_hears_do_not_block(alarm: Alarm) -> None:
    for _ in range(10_000):
        alarm.ring()
    alarm.wait([], LONG)
    assert not alarm.pending


def test_a_signal_ends_a_wait(ringing: Alarm) -> None:
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    ringing.wait([], LONG)
    timer.join()


def test_after_the_last_one_no_signal_rings() -> None:
    alarm = Alarm()
    alarm.on_signals()
    alarm.close()
    assert signal.set_wakeup_fd(-1) == -1
