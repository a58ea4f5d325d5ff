"""The stubs of ``router_load`` behind HTTP: for routers that pass streams through, and for no router at all.

Each says the events that pagewire's router would write, in chunks, one a stream and step. Knows as much HTTP
as that takes.
"""

from __future__ import annotations

import asyncio
import json
import time

from router_load import Said

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class HttpNodes:
    """``count`` servers on free ports of this host. ``text`` is what they say."""

    def __init__(self, count: int, text: str, step_s: float) -> None:
        self.step_s = step_s
        self.said: dict[int, Said] = {}
        self.urls: list[str] = []
        self._count = count
        self._event, self._last = _chunk(text, None), _chunk(text, "length")
        self._servers: list[asyncio.Server] = []
        self._running: list[set[_Stream]] = [set() for _ in range(count)]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> HttpNodes:
        loop = asyncio.get_running_loop()
        for n in range(self._count):
            server = await loop.create_server(lambda n=n: _Stream(self, self._running[n]), "127.0.0.1", 0)
            self._servers.append(server)
            self.urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            self._tasks.append(asyncio.create_task(self._steps(self._running[n], n / self._count)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for server in self._servers:
            server.close()

    async def _steps(self, running: set[_Stream], phase: float) -> None:
        due = time.perf_counter() + phase * self.step_s
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due = max(due + self.step_s, time.perf_counter() - self.step_s)
            for stream in list(running):
                if not stream.say(self._event, self._last):
                    running.discard(stream)


class _Stream(asyncio.Protocol):
    """A connection, which may be used again and again."""

    def __init__(self, nodes: HttpNodes, running: set[_Stream]) -> None:
        self._nodes, self._running = nodes, running
        self._data = b""
        self._left = 0
        self._said = Said()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._running.discard(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, gap, body = self._data.partition(b"\r\n\r\n")
        length = next((int(v) for k, _, v in map(_field, head.split(b"\r\n")) if k == b"content-length"), 0)
        if not gap or len(body) < length:
            return
        self._data = body[length:]
        if not head.startswith(b"POST"):
            self._transport.write(_OK)
            return
        asked = json.loads(body[:length])
        self._said = self._nodes.said.setdefault(asked["prompt"][-1], Said())
        self._left = asked["max_tokens"]
        self._transport.write(_HEAD)
        self.say(self._nodes._event, self._nodes._last)
        self._running.add(self)

    def say(self, event: bytes, last: bytes) -> bool:
        """One more token. False: that was the last."""
        self._said.at.append(time.perf_counter())
        self._left -= 1
        self._transport.write(event if self._left else last + _END)
        return self._left > 0


def _field(line: bytes) -> tuple[bytes, bytes, bytes]:
    name, colon, value = line.partition(b":")
    return name.lower(), colon, value


def _chunk(text: str, finish: str | None) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    event = {
        "id": "cmpl-" + "0" * 32,
        "object": "text_completion",
        "created": 1_800_000_000,
        "model": "SmolLM2-135M-Instruct",
        "choices": [choice],
    }
    data = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)
