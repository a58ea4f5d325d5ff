"""Routers, prefill and decode nodes of two neighbouring versions in one cluster, in every combination."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster import events
from newer_tree import NEWER, ROOT, newer_tree

from pagewire import LLM, SamplingParams, __version__
from pagewire.outputs import CompletionOutput

pytestmark = [pytest.mark.e2e, pytest.mark.soak]  # some twenty seconds: half a dozen processes twice

PROMPT = [1, 504, 3575, 282, 4649, 314, 260, 2591] * 6
NEW_TOKENS, MANY_TOKENS = 12, 120
SIZES = ("--kv-cache-memory", "64MiB", "--threads-per-worker", "1")
EACH_PAIR = ("--placement", "round-robin", "--disaggregate", "always", "--canary-interval", "0")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "router": EACH_PAIR, "prefill": SIZES, "decode": (*SIZES, "--handoff", "tcp://127.0.0.1:0"),
}  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Mixed:
    """One process of each role and version; all nodes dial both routers. "now" is this tree."""

    def __init__(self, trees: dict[str, Path], logs: Path) -> None:
        self.urls = {version: f"http://127.0.0.1:{free_port()}" for version in trees}
        self._mailboxes = {version: f"tcp://127.0.0.1:{free_port()}" for version in trees}
        self._logs = logs
        self.processes = {
            f"{role}-{version}": self._start(role, version, tree)
            for role in ARGUMENTS
            for version, tree in trees.items()
        }

    def _start(self, role: str, version: str, tree: Path) -> subprocess.Popen[bytes]:
        if role == "router":
            port = self.urls[version].rpartition(":")[2]
            where = ["--listen", self._mailboxes[version], "--port", port]
        else:
            routers = [word for address in self._mailboxes.values() for word in ("--router", address)]
            where = ["--node-id", f"{role}-{version}", *routers, "--topology", f"zone/{version}"]
        command = [sys.executable, "-m", "pagewire.cli.main", role, "demo", *where, *ARGUMENTS[role]]
        with (self._logs / f"{role}-{version}").open("wb") as log:
            env = os.environ | {"PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1"}
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=tree, env=env)

    def until(self, probe: Callable[[], Any], seconds: float = 120.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            gone = [name for name, p in self.processes.items() if p.poll() not in (None, -signal.SIGKILL)]
            assert not gone, self.said(gone[0])
            with contextlib.suppress(httpx.TransportError):
                if found := probe():
                    return found
            time.sleep(0.1)
        raise AssertionError("\n".join(map(self.said, self.processes)))

    def said(self, name: str) -> str:
        return f"--- {name}\n{(self._logs / name).read_text(errors='replace')[-3000:]}"

    def nodes(self, version: str) -> dict[str, dict[str, Any]]:
        """Of the router of that version: each node's own counts, by its name."""
        found = httpx.get(f"{self.urls[version]}/health").json()["nodes"]
        return {node["node"]: node["load"]["gauges"] for node in found}

    def handoffs(self, version: str) -> dict[str, float]:
        """How many there were, by how much of their topologies the two nodes shared."""
        page = httpx.get(f"{self.urls[version]}/metrics").text
        found = re.findall(r'^pagewire:handoff_seconds_count\{shared="(\d?)"\} (\S+)$', page, re.MULTILINE)
        return {shared: float(count) for shared, count in found}

    def refused(self, version: str) -> dict[str, float]:
        page = httpx.get(f"{self.urls[version]}/metrics").text
        found = re.findall(r'^pagewire:mailbox_refused_total\{reason="(\w+)"\} (\S+)$', page, re.MULTILINE)
        return {reason: float(count) for reason, count in found}

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    trees = {"now": ROOT, "next": newer_tree(tmp_path_factory.mktemp("next"))}
    cluster = Mixed(trees, tmp_path_factory.mktemp("logs"))
    try:
        cluster.until(lambda: all(len(cluster.nodes(version)) == 4 for version in trees))
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def oracle() -> CompletionOutput:
    greedy = SamplingParams(temperature=0.0, max_tokens=MANY_TOKENS, ignore_eos=True)
    [output] = LLM("demo", kv_cache_bytes=64 << 20).generate([PROMPT], [greedy], use_tqdm=False)
    return output.outputs[0]


@pytest.mark.parametrize("router", ["now", "next"])
def test_every_pair_of_versions_serves(mixed: Mixed, router: str, oracle: CompletionOutput) -> None:
    version = httpx.get(f"{mixed.urls[router]}/version").json()["version"]
    assert version == {"now": __version__, "next": NEWER}[router]
    pairs = set()
    body = {"prompt": PROMPT, "temperature": 0.0, "max_tokens": NEW_TOKENS, "ignore_eos": True}
    for number in range(4):
        asked = body | {"return_token_ids": True, "cache_salt": f"{router}{number}"}  # each prompt is sent
        reply = httpx.post(f"{mixed.urls[router]}/v1/completions", json=asked, timeout=60)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["token_ids"] == oracle.token_ids[:NEW_TOKENS]
        pairs.add(re.sub("; why=.*", "", reply.headers["x-pagewire-served-by"]))
    either = ("now", "next")
    mixed.until(lambda: mixed.handoffs(router) == {"1": 2.0, "2": 2.0}, 20)
    assert pairs == {f"prefill=prefill-{p}; decode=decode-{d}" for p in either for d in either}


def test_what_only_the_next_version_says_is_ignored_and_nothing_was_refused(mixed: Mixed) -> None:
    mixed.until(lambda: mixed.refused("now")["newer"])
    for name in ("prefill-now", "decode-now"):
        mixed.until(lambda name=name: mixed.nodes("next")[name].get("mailbox_newer"))
    assert mixed.refused("next")["newer"] == 0
    for router in mixed.urls:
        assert mixed.refused(router)["malformed"] == 0
        for name, gauges in mixed.nodes(router).items():
            wrong = ("mailbox_refused", "transfer_malformed", "transfer_version", "transfer_corrupt")
            assert {what: gauges.get(what, 0) for what in wrong} == dict.fromkeys(wrong, 0), name
            if name.endswith("-next"):
                assert gauges["mailbox_newer"] == 0


def test_when_a_node_dies_one_of_the_other_version_goes_on(mixed: Mixed, oracle: CompletionOutput) -> None:
    body = {
        "prompt": PROMPT,
        "temperature": 0.0,
        "max_tokens": MANY_TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    text = ""
    with httpx.stream("POST", f"{mixed.urls['next']}/v1/completions", json=body, timeout=60) as reply:
        victim = re.findall("decode=([\\w-]+)", reply.headers["x-pagewire-served-by"])[0]
        for number, event in enumerate(events(reply)):
            text += "".join(choice["text"] for choice in event["choices"])
            if number == 5:
                mixed.processes[victim].kill()
                assert mixed.processes[victim].wait(5) == -signal.SIGKILL
    assert text == oracle.text
    page = httpx.get(f"{mixed.urls['next']}/metrics").text
    assert re.search(r"^pagewire:request_retries_total 1\.0$", page, re.MULTILINE)
    mixed.until(lambda: victim not in mixed.nodes("next"), 10)
