"""How a node's loop sleeps: until a message is here, a time has come, or somebody calls it.

Knows sockets and seconds; knows no message and no node. There is no polling: whoever wants the loop's
attention makes one of the sockets readable, or calls ``Alarm.ring``.
"""

from __future__ import annotations

import contextlib
import math
import select
import signal
import socket
from collections.abc import Iterable

import zmq


class Alarm:
    """Ends a wait from another thread or at a signal. A ring is not lost: if there is no wait now, it ends
    the next one. ``close`` it on the thread that called ``on_signals``.
    """

    def __init__(self) -> None:
        self._ear, self._bell = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._signals = False

    def ring(self) -> None:
        """May be called on any thread."""
        with contextlib.suppress(BlockingIOError):  # it is full of rings that nobody has heard yet
            self._bell.send(b"\0")

    @property
    def pending(self) -> bool:
        """True if a ring has ended no wait yet."""
        return bool(select.select([self._ear], [], [], 0)[0])

    def on_signals(self) -> None:
        """Ring at every signal that has a handler. ZeroMQ takes a wait up again after a signal, so that the
        handler alone would not end it. To be called on the main thread.
        """
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._signals = True

    def wait(self, sockets: Iterable[zmq.Socket[bytes]], seconds: float) -> None:
        """Sleep until one of ``sockets`` is readable, it rings, or ``seconds`` have passed: at most a
        millisecond more.
        """
        poller = zmq.Poller()
        for each in sockets:
            poller.register(each, zmq.POLLIN)
        poller.register(self._ear, zmq.POLLIN)
        if self._ear.fileno() in dict(poller.poll(math.ceil(seconds * 1000))):
            with contextlib.suppress(BlockingIOError):
                while self._ear.recv(4096):
                    pass

    def close(self) -> None:
        if self._signals:
            signal.set_wakeup_fd(-1)
        self._ear.close()
        self._bell.close()
