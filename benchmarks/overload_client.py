"""A cheap client of /v1/completions: raw sockets kept open, bytes counted instead of parsed.

Knows HTTP/1.1 as far as this server speaks it, and when each thing came; knows no load and does no
statistics. Beside a server on two cores it must cost next to nothing: about 50 microseconds a request,
whatever the answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

TOKENS = 40_000  # ids to draw prompts from: the demo model knows more


@dataclass(slots=True)
class Outcome:
    """One request. Moments are of ``time.perf_counter``; ``due`` is when it should have been sent."""

    due: float
    key: str
    kind: int = 0  # which of the sizes in the mix
    status: int = 0
    first: float | None = None  # the first event of a stream
    end: float = 0.0
    whole: bool = False  # the stream ended as it should
    retry_after: float | None = None
    error: str = ""

    @property
    def ttft(self) -> float:
        return (self.first or float("inf")) - self.due

    @property
    def took(self) -> float:
        return self.end - self.due

    def good(self, slo: float) -> bool:
        return self.status == 200 and self.whole and self.ttft <= slo


def body(prompt: int, answer: int, dice: random.Random) -> bytes:
    """A streamed completion of exactly so many tokens; no two prompts share a prefix."""
    asked = {
        "prompt": [dice.randrange(100, TOKENS) for _ in range(prompt)],
        "max_tokens": answer,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    return json.dumps(asked, separators=(",", ":")).encode()


class Client:
    """Connections to one server, as many as are in use at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[_Connection] = []

    async def ask(self, payload: bytes, key: str, due: float | None = None) -> Outcome:
        outcome = Outcome(time.perf_counter() if due is None else due, key)
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: {self._host}\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        )
        try:
            connection = await self._connection()
            await connection.exchange(head.encode() + payload, outcome)
        except OSError as error:
            outcome.error, outcome.end = str(error) or type(error).__name__, time.perf_counter()
            return outcome
        if connection.open:
            self._idle.append(connection)
        return outcome

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(_Connection, self._host, self._port)
        return made

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._outcome: Outcome | None = None
        self._head = b""
        self._left: int | None = None  # of a body with a length
        self._tail = b""

    async def exchange(self, request: bytes, outcome: Outcome) -> None:
        assert self._transport is not None
        self._outcome, self._head, self._left, self._tail = outcome, b"", None, b""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._outcome is not None and self._outcome.status == 0:
            self._outcome.error = "the connection was closed"
        self._finish()

    def data_received(self, data: bytes) -> None:
        outcome = self._outcome
        if outcome is None:
            return
        if not outcome.status:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._read_head(head.lower(), outcome)
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._finish()
            return
        if outcome.first is None and b"data: " in data:
            outcome.first = time.perf_counter()
        self._tail = (self._tail + data)[-64:]
        if self._tail.endswith(b"0\r\n\r\n"):
            outcome.whole = b"data: [DONE]" in self._tail
            self._finish()

    def _read_head(self, head: bytes, outcome: Outcome) -> None:
        first, *lines = head.split(b"\r\n")
        outcome.status = int(first.split()[1])
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"content-length":
                self._left = int(value)
            elif name == b"retry-after":
                outcome.retry_after = float(value)
            elif (name, value) == (b"connection", b"close"):
                self.open = False

    def _finish(self) -> None:
        if self._outcome is not None:
            self._outcome.end = time.perf_counter()
            self._outcome = None
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
