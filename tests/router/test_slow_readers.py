"""Streams that are read slowly or not at all, over real sockets and on stub nodes: they end, everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from conftest import World, running

from pagewire.messages import PrefillRequest
from pagewire.text.tokenizer import Tokenizer
from router import server as http
from router.connection import Connection, Limits
from router.server import HttpServer, http_config, listen

LENGTH = 5000


class Endless(World):
    """Every answer is long. ``address`` is where it serves."""

    address: tuple[str, int]

    def script(self, request: PrefillRequest, choice: int) -> list[int]:
        return [self.answer[0]] * LENGTH


@pytest.fixture
async def served(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Endless, HttpServer]]:
    monkeypatch.setattr(http, "LOOK_S", 0.02)
    monkeypatch.setattr(Connection, "limits", replace(Limits(), unread_s=0.3, unread_rate=1 << 30))
    world = Endless(tokenizer)
    world.cluster.max_model_len = 1 << 16
    async with running(world, "prefill-0", "decode-0"):
        with contextlib.closing(listen("127.0.0.1", 0)) as listener:
            server = HttpServer(http_config(world.service.options, world.app))
            task = asyncio.create_task(server.serve(sockets=[listener]))
            world.address = listener.getsockname()
            await world.until(lambda: server.started)
            yield world, server
            server.end()
            await task


async def stream(world: Endless, logprobs: int | None = 20) -> socket.socket:
    """A client with little room that has asked for a stream."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    body = json.dumps(
        {"prompt": [5] * 8, "max_tokens": LENGTH, "stream": True, "logprobs": logprobs}
    ).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, world.address)
    await loop.sock_sendall(client, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return client


@pytest.mark.parametrize("logprobs", [None, 20])  # None: chunks that go out at once
@pytest.mark.parametrize("reads", [False, True])
async def test_a_stream_that_is_not_read_ends_on_nodes_and_wires(
    served: tuple[Endless, HttpServer], reads: bool, logprobs: int | None
) -> None:
    world, server = served
    loop = asyncio.get_running_loop()
    with contextlib.closing(await stream(world, logprobs)) as client:
        await world.until(lambda: world.cluster.requests())
        async with asyncio.timeout(10):
            while server.server_state.connections:
                if reads:
                    with contextlib.suppress(ConnectionResetError, TimeoutError):
                        await asyncio.wait_for(loop.sock_recv(client, 100), 0.1)
                await asyncio.sleep(0.02)
    assert world.service.inflight == 0
    assert world.cluster.cancelled() == {("prefill-0", 0), ("decode-0", 0)}


async def test_a_stream_that_is_read_is_whole(served: tuple[Endless, HttpServer]) -> None:
    world, _ = served
    loop, found = asyncio.get_running_loop(), bytearray()
    with contextlib.closing(await stream(world)) as client:
        async with asyncio.timeout(30):
            while b"[DONE]" not in found[-50:]:
                found += await loop.sock_recv(client, 1 << 20)
    assert found.count(b'"tokens"') > 1
    assert world.cluster.cancelled() == set()
