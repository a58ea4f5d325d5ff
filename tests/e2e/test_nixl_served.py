"""Router, prefill node and decode node as separate commands, with KV that goes by NIXL: the same tokens as in
one process. Only where NIXL is installed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cluster import completion
from prompts import draw, sampling

from pagewire import LLM

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        find_spec("nixl") is None, reason="NIXL is not installed: pip install 'pagewire[nixl]'"
    ),
]
PROMPTS: list[list[int]] = [[draw(40_000, stream, i) for i in range(1500)] for stream in range(6)]
PARAMS: dict[str, Any] = {"max_tokens": 12, "temperature": 0.8, "seed": 5}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def nodes(tiny: Path, tmp_path: Path) -> Iterator[tuple[str, dict[str, subprocess.Popen[bytes]], Path]]:
    mailbox, http, model = f"tcp://127.0.0.1:{free_port()}", free_port(), str(tiny)
    log = tmp_path / "log"
    common = ["--router", mailbox, "--load-format", "dummy", "--kv-cache-memory", "64MiB"]
    commands = {
        "router": [model, "--listen", mailbox, "--port", str(http), "--disaggregate", "always"],
        "prefill": [model, *common],
        "decode": [model, *common, "--handoff", "nixl://127.0.0.1:0"],
    }
    started: dict[str, subprocess.Popen[bytes]] = {}
    with log.open("wb") as out:
        for name, command in commands.items():
            argv = [sys.executable, "-m", "pagewire.cli.main", name, *command]
            started[name] = subprocess.Popen(
                argv, stdout=out, stderr=out, env=os.environ | {"PYTHONUNBUFFERED": "1"}
            )
        yield f"http://127.0.0.1:{http}", started, log
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait(40)


def until_ready(url: str, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_tokens_are_those_of_one_process_also_when_nixls_processes_are_killed(
    nodes: tuple[str, dict[str, subprocess.Popen[bytes]], Path], tiny: Path
) -> None:
    url, started, log = nodes
    llm = LLM(str(tiny), load_format="dummy")
    expected = [
        output.outputs[0].token_ids
        for output in llm.generate(PROMPTS, [sampling(PARAMS)] * len(PROMPTS), use_tqdm=False)
    ]
    until_ready(url, log)

    def ask(i: int) -> list[int]:
        reply = completion(url, prompt=PROMPTS[i], return_token_ids=True, **PARAMS)
        return list(reply["choices"][0]["token_ids"])

    end = time.monotonic() + 60
    while "KV goes by NIXL" not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        assert ask(0) == expected[0]
    assert [ask(i) for i in range(3)] == expected[:3]
    for name in ("decode", "prefill"):
        for child in psutil.Process(started[name].pid).children():
            child.kill()
        assert [ask(i) for i in range(6)] == expected, name
    children = [child for process in started.values() for child in psutil.Process(process.pid).children()]
    for process in started.values():
        process.terminate()
    assert [process.wait(40) for process in started.values()] == [0, 0, 0]
    assert not psutil.wait_procs(children, 5)[1], "a NIXL process outlives its node"
