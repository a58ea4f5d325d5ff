"""A TCP proxy between a prefill and a decode host that hurts what it carries: slices, throttles, cuts, resets
or falls silent.

It stands in the prefill host under the decode host's own address, and goes on inside the decode host: the two
programs know nothing of it. Knows sockets and bytes; knows no frame.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass
from enum import Enum

from netns import Host

_CHUNK = 16384
_TURN_S = 0.05


class End(Enum):
    """How a connection ends once it has carried what it may."""

    CLOSE = "closed"
    RESET = "reset"
    STALL = "stalled"  # nothing passes any more, and nobody is told


@dataclass(slots=True)
class Toxic:
    """``piece``: bytes of one write; ``rate``: bytes a second each way; 0 is no limit of either."""

    piece: int = 0
    rate: float = 0.0
    end: End | None = None
    end_after: int = 0  # bytes from prefill to decode, counted from when this was set; one connection ends
    lag: float = 0.0  # seconds before that in which all is lost, as it is when the way is long


class BadProxy:
    """Between ``prefill`` and ``decode``, until it is closed. A context manager."""

    def __init__(self, prefill: Host, decode: Host, port: int) -> None:
        self.toxic = Toxic()
        self.carried = 0  # bytes from prefill to decode
        self.writes = 0
        self.ended = 0  # connections that ``Toxic.end`` ended
        self._at, self._decode, self._prefill = (decode.address, port), decode, prefill
        self._left = 0
        self._open: set[socket.socket] = set()
        self._dying: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> BadProxy:
        self._prefill.also(self._at[0], add=True)
        with self._prefill.inside():
            self._listener = socket.create_server(self._at)
        with self._decode.inside():  # so that the connections that it makes begin there
            threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._close(*self._open)
        self._prefill.also(self._at[0], add=False)

    def set(self, toxic: Toxic) -> None:
        with self._lock:
            self.toxic, self._left = toxic, toxic.end_after

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._at, timeout=5)
            except OSError:
                return
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(
                    target=self._pump, args=(source, target, source is near), daemon=True
                ).start()

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError, ValueError):  # the other direction may close both
            while data := _receive(source):
                if source in self._dying:
                    continue
                toxic = self.toxic
                end = self._spend(len(data)) if up else None
                if end is not None:
                    self._dying |= {source, target}
                    time.sleep(toxic.lag)
                    self._end(end, source, target)
                    return
                self._write(target, data, toxic, up)
        with self._lock:
            self._close(source, target)

    def _spend(self, size: int) -> End | None:
        """Take ``size`` from what may still pass. How the connection is to end, if that was too much."""
        with self._lock:
            end = self.toxic.end
            self._left -= size
            if end is None or self._left >= 0:
                return None
            self.toxic = Toxic()
            self.ended += 1
            return end

    def _write(self, target: socket.socket, data: bytes, toxic: Toxic, up: bool) -> None:
        step = toxic.piece or (max(1, int(toxic.rate / 20)) if toxic.rate else len(data))
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            target.sendall(piece)
            if up:
                self.carried += len(piece)
                self.writes += 1
            if toxic.rate:
                time.sleep(len(piece) / toxic.rate)

    def _end(self, end: End, source: socket.socket, target: socket.socket) -> None:
        if end is End.STALL:
            return  # both ways lead nowhere from now on
        with self._lock:
            if end is End.RESET:
                for at in (source, target):
                    at.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close(source, target)

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            end.close()


def _receive(source: socket.socket) -> bytes:
    """What comes next. Waits in short turns: the kernel keeps a socket alive as long as somebody waits on it,
    whoever closes it.
    """
    while not select.select([source], [], [], _TURN_S)[0]:
        pass
    return source.recv(_CHUNK)
