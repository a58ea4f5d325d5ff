"""Real workers change their roles, or are told to stop, while requests run: nobody but them notices."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cluster import Cluster

pytestmark = pytest.mark.e2e

REQUESTS = [
    {"prompt": list(range(900 + n, 1000 + 9 * n)), "max_tokens": 120, "seed": n, "temperature": 0.8}
    | {"ignore_eos": True, "return_token_ids": True}
    for n in range(12)
]


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tiny: Path, port: int) -> Iterator[Cluster]:
    sizes = ("--load-format", "dummy", "--kv-cache-memory", "64MiB", "--threads-per-worker", "1")
    with Cluster(str(tiny), *sizes, "--prefill", "1", "--decode", "2", "--admin-port", str(port)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> list[list[int]]:
    return [answer(cluster, request) for request in REQUESTS]


def answer(cluster: Cluster, request: dict[str, Any]) -> list[int]:
    reply = httpx.post(f"{cluster.url}/v1/completions", json=request, timeout=60)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["choices"][0]["token_ids"])


def role(port: int, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pagewire.cli.main", "role", *args, "--admin-port", str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def retries(cluster: Cluster) -> float:
    page = httpx.get(f"{cluster.url}/metrics").text
    lines = [line for line in page.splitlines() if line.startswith("pagewire:request_retries_total")]
    return float(lines[0].rpartition(" ")[2])


def test_roles_change_under_load(cluster: Cluster, expected: list[list[int]], port: int) -> None:
    before = retries(cluster)
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        asked = [pool.submit(answer, cluster, request) for request in REQUESTS]
        for node, to in (("worker-1", "prefill"), ("worker-0", "decode"), ("worker-1", "decode")):
            done = role(port, node, to)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"{node} is a {to} node now")
            assert cluster.nodes()[node]["role"] == to
            asked += [pool.submit(answer, cluster, request) for request in REQUESTS]
            role(port, "worker-0" if to == "prefill" else "worker-1", "prefill")  # somebody has to read
        assert [each.result() for each in asked] == expected * 4
    assert retries(cluster) == before


def test_what_cannot_be_done_is_said_in_a_line(cluster: Cluster, port: int) -> None:
    assert "worker-0" in role(port).stdout
    nobody = role(port, "nobody", "prefill")
    assert (nobody.returncode, nobody.stderr) == (2, "pagewire: there is no node 'nobody'\n")
    wrong = role(port, "worker-0", "router")
    assert wrong.returncode == 2
    assert "role" in wrong.stderr


def test_the_admin_port_is_shut_to_others(cluster: Cluster, port: int) -> None:
    for headers in ({}, {"authorization": "Bearer no"}):
        for path in ("/admin/nodes", "/", "/metrics"):
            assert httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers).status_code == 401


def test_a_node_that_is_told_to_stop_ends_what_it_has(
    cluster: Cluster, expected: list[list[int]], port: int
) -> None:
    for node, to in (("worker-0", "prefill"), ("worker-1", "decode"), ("worker-2", "decode")):
        assert role(port, node, to).returncode == 0
    before, victim = retries(cluster), psutil.Process(cluster.pid("worker-2"))
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        asked = [pool.submit(answer, cluster, request) for request in REQUESTS]
        cluster.until(lambda: cluster.gauges()["worker-2"].get("live"), 20)
        victim.send_signal(signal.SIGTERM)
        assert [each.result() for each in asked] == expected
    assert retries(cluster) == before
    cluster.until(lambda: "worker-2 ended with" in cluster.output(), 10)
    assert "worker-2 ended with exit code 0" in cluster.output()


def test_nodes_come_and_go_by_a_command(cluster: Cluster, expected: list[list[int]]) -> None:
    def scale(*args: str) -> str:
        number = cluster.url.rpartition(":")[2]
        command = [sys.executable, "-m", "pagewire.cli.main", "scale", *args, "--port", number]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout

    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        asked = [pool.submit(answer, cluster, request) for request in REQUESTS]
        assert scale("--decode", "3") == "added worker-3\n1 prefill and 3 decode nodes\n"
        cluster.until(lambda: "worker-3" in cluster.nodes(), 10)
        asked += [pool.submit(answer, cluster, request) for request in REQUESTS]
        assert scale("--decode", "2") == "removed worker-3\n1 prefill and 2 decode nodes\n"
        cluster.until(lambda: "worker-3" not in cluster.nodes(), 10)
        assert [each.result() for each in asked] == expected * 2
    assert "worker-3 ended" not in cluster.output()  # it was not started again
