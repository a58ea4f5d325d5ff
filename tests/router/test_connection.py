"""The limits of one client's connection, over real sockets, with little patience."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router import server
from router.connection import HEAD_BYTES, HEAD_FIELDS, Connection, Limits
from router.main import RouterOptions, serve

HEAD = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LIVE = b"GET /live HTTP/1.1\r\nhost: x\r\n"


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, fields and JSON of the next answer."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(fields["content-length"]))
        return int(head[0].split()[1]), fields, json.loads(body)

    async def pour(self, count: int) -> None:
        for _ in range(count // 10_000):
            self.writer.write(b" " * 10_000)
            await self.writer.drain()

    async def refused(self) -> tuple[int, str]:
        """Status and code of the answer, after which the server hangs up."""
        status, fields, body = await self.answer()
        assert fields["connection"] == "close"
        assert set(body["error"]) == {"message", "type", "param", "code"}
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                assert await self.reader.read() == b""
        return status, body["error"]["code"]


class Door:
    """A router without nodes, and those who come to it."""

    def __init__(self, url: str) -> None:
        self.host, self.port = url.removeprefix("http://").rsplit(":", 1)
        self._clients: list[Client] = []

    async def client(self, *pieces: bytes, limit: int = 1 << 24) -> Client:
        made = Client(*await asyncio.open_connection(self.host, self.port, limit=limit))
        self._clients.append(made)
        made.writer.write(b"".join(pieces))
        return made

    async def close(self) -> None:
        for client in self._clients:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets some limits."""

    def change(**values: Any) -> None:
        monkeypatch.setattr(Connection, "limits", replace(Limits(), **values))

    return change


@pytest.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setattr(server, "LOOK_S", 0.02)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.5)
    urls: asyncio.Queue[str] = asyncio.Queue()
    options = RouterOptions(model="demo", mailbox=f"ipc://{tmp_path}/m", port=0, grace_s=0.1)
    task = asyncio.create_task(serve(options, urls.put_nowait))
    made = Door(await urls.get())
    yield made
    await made.close()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


# --- heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", LIVE])
async def test_a_head_that_does_not_come(door: Door, limits: Any, sent: bytes) -> None:
    limits(head_s=0.1)
    assert await (await door.client(sent)).refused() == (408, "request_timeout")


async def test_a_second_head_that_does_not_come(door: Door, limits: Any) -> None:
    limits(head_s=0.1)
    client = await door.client(LIVE, b"\r\n")
    assert (await client.answer())[0] == 200
    client.writer.write(LIVE)
    assert await client.refused() == (408, "request_timeout")


async def test_a_head_that_does_not_end(door: Door) -> None:
    client = await door.client(LIVE, b"x: ")
    for _ in range(HEAD_BYTES // 1000 + 1):
        client.writer.write(b"x" * 1000)
        await asyncio.sleep(0.001)
    status, _, body = await client.answer()
    assert (status, body["error"]["type"]) in [(400, "invalid_request_error"), (431, "invalid_request_error")]


@pytest.mark.parametrize(
    "fields", [b"x: " + b"y" * HEAD_BYTES + b"\r\n", b"x: y\r\n" * HEAD_FIELDS], ids=["long", "many"]
)
async def test_a_head_that_is_too_long_and_comes_at_once(door: Door, fields: bytes) -> None:
    client = await door.client(LIVE, fields, b"\r\n")
    assert (await client.answer())[0] in (400, 431)


async def test_a_path_that_is_too_long(door: Door) -> None:
    client = await door.client(b"GET /live?" + b"y" * HEAD_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await client.answer())[0] in (400, 431)


async def test_as_many_fields_as_there_may_be(door: Door) -> None:
    client = await door.client(LIVE, b"x: y\r\n" * (HEAD_FIELDS - 1), b"\r\n")
    assert (await client.answer())[0] == 200


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/x\r\n\r\n"])
async def test_what_is_not_http(door: Door, sent: bytes) -> None:
    client = await door.client(sent, b"\r\n\r\n")
    assert await client.refused() == (400, "bad_request")


# --- bodies -------------------------------------------------------------------------------------------------


async def test_a_body_that_does_not_come(door: Door, limits: Any) -> None:
    limits(body_s=0.1)
    client = await door.client(HEAD, b"content-length: 100\r\n\r\n", b"{")
    assert await client.refused() == (408, "request_timeout")


async def test_a_body_that_comes_in_drops(door: Door, limits: Any) -> None:
    limits(body_s=0.2)
    client = await door.client(HEAD, b"transfer-encoding: chunked\r\n\r\n")
    waiting = asyncio.create_task(client.refused())
    while not waiting.done():
        client.writer.write(b"1\r\n \r\n")
        await asyncio.sleep(0.02)
    assert await waiting == (408, "request_timeout")


async def test_the_rest_of_a_body_that_was_answered_already(door: Door, limits: Any) -> None:
    limits(spare_bytes=100_000)
    client = await door.client(HEAD.replace(b"json", b"other"), b"content-length: 9999999\r\n\r\n")
    assert (await client.answer())[0] == 415
    with pytest.raises(OSError):
        await client.pour(10_000_000)


async def test_a_body_as_large_as_it_may_be(door: Door) -> None:
    body = json.dumps({"prompt": "x", "pad": [" " * 1_000_000] * 4}).encode()
    client = await door.client(HEAD, f"content-length: {len(body)}\r\n\r\n".encode(), body)
    assert (await client.answer())[0] == 200


# --- connections --------------------------------------------------------------------------------------------


async def test_more_connections_than_there_may_be(door: Door, limits: Any) -> None:
    limits(connections=2)
    first, second = [await door.client(LIVE, b"\r\n") for _ in range(2)]
    assert [(await client.answer())[0] for client in (first, second)] == [200, 200]
    assert await (await door.client(LIVE, b"\r\n")).refused() == (503, "service_unavailable")
    first.writer.close()
    async with asyncio.timeout(5):
        while (await (await door.client(LIVE, b"\r\n")).answer())[0] != 200:
            await asyncio.sleep(0.01)


async def test_a_connection_that_nobody_uses(door: Door) -> None:
    client = await door.client(LIVE, b"\r\n")
    await client.answer()
    async with asyncio.timeout(5):
        assert await client.reader.read() == b""


async def test_an_answer_that_nobody_reads(door: Door, limits: Any) -> None:
    limits(unread_s=0.2, unread_rate=1 << 30)
    body = json.dumps({"prompt": "no " * 200_000, "return_token_strs": True}).encode()
    client = await door.client(HEAD, f"content-length: {len(body)}\r\n\r\n".encode(), body, limit=1)
    end = client.writer.get_extra_info("socket")
    async with asyncio.timeout(60):  # tokenising is a part of that
        while not end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            await asyncio.sleep(0.02)


async def test_an_answer_tells_nothing_of_the_server(door: Door) -> None:
    _, fields, _ = await (await door.client(LIVE, b"\r\n")).answer()
    assert "server" not in fields
    assert fields["x-content-type-options"] == "nosniff"
