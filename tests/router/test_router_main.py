from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from conftest import World
from router_stubs import LAYOUT

from pagewire.errors import ConfigError
from pagewire.mailbox import NodeMailbox
from pagewire.messages import Epoch, Hello, NodeId
from router.main import RouterOptions, _announce, _drain, serve
from router.server import listen

PROGRAM = """
import sys
from router.main import RouterOptions, run
tell = lambda url: print(url, "torch" in sys.modules, flush=True)
run(RouterOptions(model="demo", mailbox=sys.argv[1], port=0), tell)
"""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """URL and mailbox address of a router in this loop."""
    options = RouterOptions(model="demo", mailbox=f"ipc://{tmp_path}/m", port=0, canary_s=0.0)
    urls: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(serve(options, urls.put_nowait))
    yield await urls.get(), options.mailbox
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_it_serves_http_before_there_are_nodes(served: tuple[str, str]) -> None:
    async with httpx.AsyncClient(base_url=served[0]) as http:
        assert (await http.get("/live")).status_code == 200
        assert (await http.get("/ready")).status_code == 503


async def test_it_is_ready_once_real_mailboxes_have_said_hello(served: tuple[str, str]) -> None:
    url, address = served
    nodes = [NodeMailbox(hello(role), [address]) for role in ("prefill", "decode")]
    async with httpx.AsyncClient(base_url=url) as http, asyncio.timeout(10):
        while (await http.get("/ready")).status_code != 200:
            await asyncio.sleep(0.01)
        found = (await http.get("/health")).json()["nodes"]
    for node in nodes:
        node.close()
    assert {node["node"] for node in found} == {"prefill-0", "decode-0"}


def hello(role: str) -> Hello:
    address = "shm://x" if role == "decode" else ""
    return Hello(NodeId(f"{role}-0"), Epoch("e"), role, "0.1.0", 1, LAYOUT, address, "m", 128, 64, 16)


async def test_a_port_in_use_is_said_plainly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            await serve(RouterOptions(model="demo", mailbox=f"ipc://{tmp_path}/m", port=port))


async def test_a_door_that_is_open_to_all_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        await serve(RouterOptions(model="demo", mailbox=f"ipc://{tmp_path}/m", host="0.0.0.0", port=0))


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False)])
async def test_doors_that_were_meant_to_be_open_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str, warned: bool
) -> None:
    caplog.set_level(logging.WARNING, logger="pagewire.router")
    options = RouterOptions(model="demo", mailbox=f"ipc://{tmp_path}/m", host=host, port=0, insecure=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        _announce(options, listener, None)
    assert ["--insecure" in record.getMessage() for record in caplog.records] == [True] * warned


async def test_what_outlives_the_grace_is_told_and_cancelled(world: World) -> None:
    world.cluster.hold_at = 1
    task = asyncio.create_task(world.chat())
    await world.until(lambda: world.cluster.requests())
    forever = asyncio.get_running_loop().create_future()
    await _drain(world.service, asyncio.ensure_future(forever), asyncio.Event(), grace=0.05)
    assert (await task).status_code == 503
    assert world.cluster.cancelled() == {("prefill-0", 0), ("decode-0", 0)}
    forever.cancel()


async def test_what_ends_within_the_grace_is_whole(world: World) -> None:
    world.cluster.hold_at = 1
    task = asyncio.create_task(world.chat())
    await world.until(lambda: world.cluster.requests())
    forever = asyncio.get_running_loop().create_future()
    draining = asyncio.create_task(
        _drain(world.service, asyncio.ensure_future(forever), asyncio.Event(), grace=5.0)
    )
    world.cluster.release()
    await draining
    assert (await task).status_code == 200
    forever.cancel()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, f"ipc://{tmp_path}/m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, torch = process.stdout.readline().split()
        assert httpx.get(f"{url}/live").status_code == 200
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, torch, errors) == (0, "False", "")


def test_what_is_written_in_two_pieces_does_not_wait_for_the_client_s_ack() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
