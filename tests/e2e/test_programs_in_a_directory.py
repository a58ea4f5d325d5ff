"""A router and a node as real commands that know nothing of each other but a redis."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster import tiny_folder
from real_redis import RedisServer, free_port, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_they_find_each_other_and_leave_nothing_behind(tmp_path: Path) -> None:
    model, port = str(tiny_folder(tmp_path / "tiny")), free_port()
    router = ["router", model, "--listen", "tcp://127.0.0.1:0", "--port", str(port), "--router-id", "r"]
    node = ["prefill", model, "--load-format", "dummy", "--kv-cache-memory", "16MiB", "--node-id", "p"]
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        quiet = os.environ | {"PAGEWIRE_REGISTRY": server.url, "XDG_STATE_HOME": str(tmp_path)}
        started = [
            subprocess.Popen([sys.executable, "-m", "pagewire.cli.main", *words], env=quiet)
            for words in (node, router)
        ]
        for process in started:
            stack.callback(process.wait)
            stack.callback(process.kill)

        def nodes() -> list[Any]:
            try:
                return list(httpx.get(f"http://127.0.0.1:{port}/health").json()["nodes"])
            except httpx.TransportError:
                return []

        assert [found["node"] for found in until(nodes, 60.0)] == ["p"]
        assert server.do("EXISTS", "pagewire:{default}:router:r", "pagewire:{default}:prefill:p") == 2
        for process in started:
            process.terminate()
        assert [process.wait(20) for process in started] == [0, 0]
        assert server.do("KEYS", "*") == []
