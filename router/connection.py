"""One client's connection: how many there may be, how fast they must speak and listen, and how long a head
may be.

Knows bytes and time; knows no route and no token. It lies around uvicorn's protocol and needs of it only
``cycle``, the request in hand; ``writer_of`` alone knows what is in one. No timer is set for a
connection: ``look`` is called about once a second, so limits hold to within that.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, cast

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 16 << 10
HEAD_FIELDS = 64
WRITE_BUFFER = 16 << 10  # that asyncio keeps for a connection before those who write have to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``head_s``: from the first byte of a request, or from the connection's start, to the end of its head.
    ``body_s``: from there to the end of its body. ``unread_s``: that a client may leave something unread, and
    one more second for each ``unread_rate`` bytes of it. ``spare_bytes``: of a body after its answer.
    """

    connections: int = 1024
    head_bytes: int = HEAD_BYTES
    head_s: float = 10.0
    body_s: float = 30.0
    unread_s: float = 15.0
    unread_rate: int = 64 << 10
    spare_bytes: int = 8 << 20


class Limited(asyncio.Protocol):
    """Before uvicorn's protocol in the order of base classes. Times are on the loop's clock."""

    limits: ClassVar[Limits] = Limits()

    # uvicorn's
    connections: Any
    transport: Any
    cycle: Any
    loop: Any

    _let_in = False
    _refused = False
    _head_since: float | None = None  # None: no byte of a next request has come
    _head_bytes = 0
    _body_since = 0.0
    _spare = 0
    _unread_since: float | None = None  # None: the client has taken all
    _unread_most = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's does not say that it is one
        if len(self.connections) >= self.limits.connections:
            self.transport = transport
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "there are too many connections")
            return
        self._let_in = True
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._head_since = self.loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._let_in:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        before, idle = self.cycle, self._idle
        if idle and self._head_since is None:
            self._head_since = self.loop.time()
        super().data_received(data)
        if self.cycle is not before:
            self._head_since, self._head_bytes, self._spare = None, 0, 0
            self._body_since = self.loop.time()
        elif idle:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too long")
        elif self.cycle.response_complete:
            self._spare += len(data)
            if self._spare > self.limits.spare_bytes:
                self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's parser could not make sense of what came."""
        if self._idle or not self.cycle.response_started:
            self._refuse(HTTPStatus.BAD_REQUEST, "this is not a valid HTTP request")
        else:
            self.transport.abort()  # an answer may be under way, and these words would be in the midst of it

    def look(self, now: float) -> None:
        """Hang up on a client that takes too long to speak or to listen."""
        unread = self.transport.get_write_buffer_size()
        if unread == 0:
            self._unread_since, self._unread_most = None, 0
        elif self._unread_since is None:
            self._unread_since = now
        self._unread_most = max(self._unread_most, unread)
        patience = self.limits.unread_s + self._unread_most / self.limits.unread_rate
        if self._unread_since is not None and now - self._unread_since > patience:
            self._cut()
        elif self._idle:
            if self._head_since is not None and now - self._head_since > self.limits.head_s:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request's head took too long")
        elif self.cycle.more_body and now - self._body_since > self.limits.body_s:
            if self.cycle.response_started:
                self.transport.abort()
            else:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request's body took too long")

    def _cut(self) -> None:
        """Hang up, and have the kernel forget what the client would not take."""
        client = self.transport.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def _idle(self) -> bool:
        """True between requests. Not while the body of an answered one still comes."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Say so and hang up. What the client still sends is not read."""
        if not self.transport.is_closing():
            self._refused = True
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # nothing that is still said of it goes out behind this
                self.cycle.message_event.set()
            self.transport.write(_answer(status, message))
            self.transport.close()


class Connection(Limited, HttpToolsProtocol):
    """What serves: uvicorn's own, within limits."""


def writer_of(send: Send) -> Callable[[bytes], bool] | None:
    """Writes a piece of the body that was begun with ``send``, now; or says that it cannot, since the client
    has to read first. None: it is not a server's own ``send``, or the body's length was told before."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not cycle.chunked_encoding:
        return None
    flow, transport = cycle.flow, cycle.transport

    def write(piece: bytes) -> bool:
        if flow.write_paused or cycle.disconnected:
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True

    return write


def _answer(status: HTTPStatus, message: str) -> bytes:
    full = status == HTTPStatus.SERVICE_UNAVAILABLE
    kind = "service_unavailable_error" if full else "invalid_request_error"
    code = status.name.lower()
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "x-content-type-options: nosniff",
        *(["retry-after: 1"] if full else []),
        "connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
