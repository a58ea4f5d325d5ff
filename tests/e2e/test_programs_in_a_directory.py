"""A router and a node as real commands that know nothing of each other but a redis, and beside them a router
that takes in nobody."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster import tiny_folder
from real_redis import RedisServer, free_port, until

from pagewire.mailbox import SPEAKS, RouterMailbox
from pagewire.membership.enrol import enrol_router
from pagewire.messages import Epoch, Hello, NodeId, Welcome
from pagewire.secret import load_secret, own_secret

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@contextmanager
def refusing(registry: str) -> Iterator[list[NodeId]]:
    """A router in the directory that refuses every node. The names of those."""
    secret, met, over = load_secret(own_secret()), list[NodeId](), threading.Event()
    name, epoch = NodeId("no"), Epoch("e")

    async def serve() -> None:
        with closing(RouterMailbox("tcp://127.0.0.1:0", secret)) as mailbox, ExitStack() as stack:
            listed = enrol_router(registry, "default", name, epoch, SPEAKS, mailbox.address, "m", secret)
            stack.callback(listed.leave)
            while not over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        peer, message = await mailbox.receive()
                        if isinstance(message, Hello):
                            mailbox.send(peer, Welcome(name, epoch, refused="nobody comes in here"))
                            met.append(peer.node)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield met
    finally:
        over.set()
        thread.join()


def test_they_find_each_other_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    model, port = str(tiny_folder(tmp_path / "tiny")), free_port()
    router = ["router", model, "--listen", "tcp://127.0.0.1:0", "--port", str(port), "--router-id", "r"]
    node = ["prefill", model, "--load-format", "dummy", "--kv-cache-memory", "16MiB", "--node-id", "p"]
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        refused = stack.enter_context(refusing(server.url))
        quiet = os.environ | {"PAGEWIRE_REGISTRY": server.url}
        started: list[subprocess.Popen[bytes]] = []

        def start(words: list[str]) -> None:
            process = subprocess.Popen([sys.executable, "-m", "pagewire.cli.main", *words], env=quiet)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)

        def nodes() -> list[Any]:
            try:
                return list(httpx.get(f"http://127.0.0.1:{port}/health").json()["nodes"])
            except httpx.TransportError:
                return []

        start(node)
        until(lambda: refused, 60.0)  # by all routers that there are
        start(router)
        assert [found["node"] for found in until(nodes, 60.0)] == ["p"]
        assert server.do("EXISTS", "pagewire:{default}:router:r", "pagewire:{default}:prefill:p") == 2
        for process in started:
            process.terminate()
        assert [process.wait(20) for process in started] == [0, 0]
        assert refused == ["p"]
        left = {b"pagewire:{default}:router:no", b"pagewire:{default}:names:router"}
        assert set(server.do("KEYS", "*")) == left
