"""Watches a listening CURVE socket: admits the keys that it knows, and keeps strangers few, short and light.

CURVE alone lets any client key in; a ZAP handler (https://rfc.zeromq.org/spec/27/) admits just ours, and
tells the reader of a message whose key it came with (the message's "User-Id"). Before that, a stranger may
hold a connection until the handshake times out, and with it memory for one frame of the socket's largest
size: so there is a cap on connections that have not shown themselves, and on the bytes that those have sent.
Beyond it, the heaviest and the oldest are hung up on. Knows sockets, keys and counts; knows no message and
no secret.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket as sockets
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from pagewire.audit import Audit

NEWCOMERS = 256  # connections from which nothing has been read yet
NEWCOMER_BYTES = 9 << 20  # that they may have sent, all together: more than one largest message
_LOOK_S = 0.005  # how often those bytes are counted while there are newcomers,
_REST = 4  # but no sooner than after so many times as long as counting took
_ZAP = "inproc://zeromq.zap.01"
_BYTES_RECEIVED = struct.Struct("<Q"), 128  # tcpi_bytes_received in Linux's struct tcp_info
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_EVENTS = _FAILED | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_WHY: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it does not speak CURVE",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "it does not know our key",
}

log = logging.getLogger("pagewire.guard")


class Refusals(NamedTuple):
    """Connections that were not let in, since the start."""

    denied: int = 0  # the handshake was right, but the key is not one that may come here
    failed: int = 0  # no handshake, or a wrong one: no key, another secret, or silence
    crowded: int = 0  # hung up on, since strangers were too many or sent too much

    def __add__(self, other: object) -> Refusals:
        assert isinstance(other, Refusals)
        return Refusals(*(a + b for a, b in zip(self, other, strict=True)))


class Guard:
    """For one socket and its context, on a thread of its own. ``allowed`` maps public keys to names."""

    def __init__(self, socket: Any, allowed: dict[bytes, str]) -> None:
        """Before ``socket`` binds."""
        # A plain context over the same libzmq one: the given one may be for asyncio.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(socket.context.underlying)
        self._allowed = allowed
        self._denied = self._failed = 0
        self._door = Newcomers()
        self._audit = Audit(log)
        self._zap = self._context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(_ZAP)
        name = f"inproc://guard-{id(self)}"
        self._wake = self._pair(f"{name}-stop", bind=True)
        self._stopped = self._pair(f"{name}-stop", bind=False)
        socket.monitor(f"{name}-events", _EVENTS)
        self._monitor = self._pair(f"{name}-events", bind=False)
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    @property
    def refusals(self) -> Refusals:
        return Refusals(self._denied, self._failed, self._door.crowded)

    def met(self, frame: zmq.Frame) -> None:
        """A message was read from the connection that ``frame`` came by: it is no newcomer any more."""
        self._door.met(frame.get(zmq.SRCFD))

    def stop(self) -> None:
        if self._thread.is_alive():
            self._wake.send(b"")
            self._thread.join()
            self._wake.close(linger=0)

    def _pair(self, address: str, *, bind: bool) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        made.setsockopt(zmq.LINGER, 0)
        (made.bind if bind else made.connect)(address)
        return made

    # --- on the guard's own thread --------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._zap, self._stopped, self._monitor):
            poller.register(socket, zmq.POLLIN)
        with contextlib.suppress(zmq.ContextTerminated):
            look_at = 0.0
            while True:
                wait = max(1, math.ceil(1000 * (look_at - time.monotonic()))) if self._door else None
                ready = dict(poller.poll(wait))
                if self._stopped in ready:
                    break
                if self._monitor in ready:
                    self._watch()
                if self._zap in ready:
                    self._zap.send_multipart(self._answer(self._zap.recv_multipart()))
                began = time.monotonic()
                if began < look_at:
                    continue
                dropped = self._door.make_room()
                look_at = time.monotonic() + max(_LOOK_S, _REST * (time.monotonic() - began))
                if dropped:
                    self._audit.note(
                        time.monotonic(), f"hung up on {dropped} strangers: too many, or too much"
                    )
        for socket in (self._zap, self._stopped, self._monitor):
            socket.close(linger=0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        # version, request id, domain, address, identity, mechanism, credentials (32 bytes of public key)
        curve = len(request) == 7 and request[5] == b"CURVE"
        name = self._allowed.get(request[6]) if curve else None
        if name is None:
            self._denied += 1
            peer = request[3].decode("ascii", "replace") if len(request) > 3 else ""
            self._audit.note(time.monotonic(), f"refused {peer or 'a peer'}: its key may not come here")
        status = [b"400", b"not allowed", b"", b""] if name is None else [b"200", b"OK", name.encode(), b""]
        return [b"1.0", request[1] if len(request) > 1 else b"", *status]

    def _watch(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
                kind, value, at = event["event"], int(event["value"]), event["endpoint"]
                if kind == zmq.EVENT_ACCEPTED:
                    self._door.add(value, at)
                elif kind & _FAILED:
                    self._failed += 1
                    why = _WHY.get(value, "it did not shake hands")
                    self._audit.note(time.monotonic(), f"refused a connection to {at.decode()}: {why}")
                else:
                    self._door.gone(value)


class Newcomers:
    """Connections by file descriptor from which no message has been read yet, oldest first.

    They belong to ZeroMQ, which may close one at any moment: each is looked at only while its own address
    is that of the listening port, so that nothing else of this process is ever touched.
    """

    def __init__(self, most: int = NEWCOMERS, most_bytes: int = NEWCOMER_BYTES) -> None:
        self.crowded = 0
        self._most = most
        self._most_bytes = most_bytes
        self._since: dict[int, int] = {}  # descriptor -> the port that accepted it

    def __len__(self) -> int:
        return len(self._since)

    def add(self, fd: int, endpoint: bytes) -> None:
        """Accepted at ``endpoint``. Sockets in the file system are left to its permissions."""
        self._since.pop(fd, None)
        if endpoint.startswith(b"tcp://"):
            self._since[fd] = int(endpoint.rsplit(b":", 1)[1])

    def met(self, fd: int) -> None:
        """May be called on another thread."""
        self._since.pop(fd, None)

    def gone(self, fd: int) -> None:
        self._since.pop(fd, None)

    def make_room(self) -> int:
        """Hang up on as many as it takes, and say how many."""
        if not self._since:
            return 0
        here = list(self._since.items())
        too_many = max(0, len(here) - self._most)
        leaving = [fd for fd, _ in here[:too_many]]
        sent = {fd: _received(fd, port) for fd, port in here[too_many:]}
        total = sum(sent.values())
        for fd in sorted(sent, key=sent.__getitem__, reverse=True):
            if total <= self._most_bytes:
                break
            leaving.append(fd)
            total -= sent[fd]
        for fd in leaving:
            if (port := self._since.pop(fd, None)) is not None:
                _hang_up(fd, port)
                self.crowded += 1
        return len(leaving)


def _received(fd: int, port: int) -> int:
    """Bytes that came by a connection that ``port`` accepted; 0 if it is none now, or cannot be told."""
    layout, at = _BYTES_RECEIVED
    with contextlib.suppress(OSError), _borrowed(fd, port) as connection:
        if hasattr(sockets, "TCP_INFO"):
            info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
            return int(layout.unpack_from(info, at)[0]) if len(info) >= at + layout.size else 0
    return 0


def _hang_up(fd: int, port: int) -> None:
    with contextlib.suppress(OSError), _borrowed(fd, port) as connection:
        connection.shutdown(sockets.SHUT_RDWR)


@contextlib.contextmanager
def _borrowed(fd: int, port: int) -> Iterator[sockets.socket]:
    """The connection ``fd``, which stays open. Raises OSError if its own port is not ``port``."""
    connection = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM, 0, fileno=fd)
    try:
        name = connection.getsockname()
        if not isinstance(name, tuple) or name[1] != port:
            raise OSError("another connection by now")
        yield connection
    finally:
        connection.detach()
