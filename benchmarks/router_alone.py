"""The router by itself: how many streamed tokens a second one process on one core carries, and what it adds.

    python benchmarks/router_alone.py [--peer /path/to/vllm-router]

The router is the real one, with a real tokenizer, sockets and HTTP. The nodes are stubs, which say one token
a stream and step, as decode nodes do, and compute nothing; their process is the clients too, so that both
ends of a token's way are on one clock. Router and load each keep to one core. A token's latency counts from
the stub's handing it to its mailbox to the client's having it, and so holds the load's own work as well: the
rows of "no router" say how much that is, where the same stubs write the same events to clients themselves.

``--peer`` adds vllm-router (PyPI). It passes a worker's bytes on: it reads no token and writes no text, keeps
no request to move it, and is compiled. Its rows say what is left to gain by that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import httpx
from measure import machine, percentile, progress, table
from router_http_nodes import HttpNodes
from router_load import Run, SaysTokens, load, stub_nodes

_TICKS = os.sysconf("SC_CLK_TCK")
_CHILD = """
import json, os, sys
os.sched_setaffinity(0, {0})
from router.main import run
from router.options import RouterOptions
run(RouterOptions(**json.loads(sys.argv[1])))
"""
TEXT = " the"
HEAD = (
    "router",
    "streams",
    "tokens/s asked",
    "carried",
    "CPU us a token",
    "core",
    "late ms p50 / p99",
    "TTFT ms",
    "failed",
)


class Router(NamedTuple):
    url: str
    mailbox: str
    pid: int | None

    def cpu_s(self) -> float:
        """Seconds of CPU that the process has had, in all its threads."""
        if self.pid is None:
            return 0.0
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def pagewire(port: int) -> Iterator[Router]:
    with tempfile.TemporaryDirectory(prefix="pw-") as folder:
        mailbox = f"ipc://{folder}/router"
        options = {
            "model": "demo",
            "mailbox": mailbox,
            "port": port,
            "max_inflight": 4096,
            "max_queued": 4096,
            "canary_s": 0.0,  # the stubs answer clients only
            "log_level": "warning",
        }
        with _child([sys.executable, "-c", _CHILD, json.dumps(options)]) as pid:
            yield Router(f"http://127.0.0.1:{port}", mailbox, pid)


@contextmanager
def vllm_router(program: str, port: int, workers: list[str]) -> Iterator[Router]:
    words = [program, "--port", str(port), "--worker-urls", *workers, "--policy", "round_robin"]
    more = ["--log-level", "error", "--prometheus-port", str(port + 1)]
    with _child(["taskset", "-c", "0", *words, *more]) as pid:
        yield Router(f"http://127.0.0.1:{port}", "", pid)


@contextmanager
def _child(words: list[str]) -> Iterator[int]:
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        yield child.pid
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(20)
        child.kill()


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    run: Run

    def cells(self) -> list[str]:
        run = self.run
        return [
            self.name,
            str(run.streams),
            f"{run.asked:,.0f}",
            f"{run.tokens / run.seconds:,.0f}",
            f"{1e6 * run.cpu_s / max(1, run.tokens):.1f}",
            f"{run.cpu_s / run.seconds:.0%}",
            _both(run.late),
            _both(run.first),
            str(run.failed),
        ]


def _both(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    return " / ".join(f"{1000 * percentile(seconds, share):.2f}" for share in (0.5, 0.99))


async def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    with pagewire(options.port) as at:
        word = await word_of(at)
        with stub_nodes(at.mailbox, options.nodes, word) as nodes:
            await answers(f"{at.url}/ready")
            rows += [await _row("pagewire", at, nodes, streams, options) for streams in options.streams]
    async with HttpNodes(options.nodes, TEXT, 0.0) as nodes:
        if options.peer:
            with vllm_router(options.peer, options.port, nodes.urls) as at:
                await answers(f"{at.url}/health")
                rows += [
                    await _row("vllm-router", at, nodes, streams, options) for streams in options.streams
                ]
        none = Router(nodes.urls[0], "", None)
        rows += [await _row("no router", none, nodes, streams, options) for streams in options.streams]
    return rows


async def _row(name: str, at: Router, nodes: SaysTokens, streams: int, options: argparse.Namespace) -> Row:
    progress(f"{name}, {streams} streams")
    nodes.step_s = options.step_ms / 1000
    run = await load(at.url, nodes, streams, TEXT.encode(), at.cpu_s, window_s=options.seconds)
    progress("")
    return Row(name, run)


async def word_of(at: Router) -> int:
    """The token that the stubs say. Waits for the router to listen."""
    async with httpx.AsyncClient() as client:
        for _ in range(300):
            with suppress(httpx.TransportError):
                body = {"prompt": TEXT, "add_special_tokens": False}
                (word,) = (await client.post(f"{at.url}/tokenize", json=body)).json()["tokens"]
                return int(word)
            await asyncio.sleep(0.1)
    raise SystemExit("the router does not listen")


async def answers(url: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(600):
            with suppress(httpx.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 250, 500, 750])
    parser.add_argument("--step-ms", type=float, default=25.0, help="between two tokens of a stream")
    parser.add_argument("--nodes", type=int, default=8, help="decode stubs")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--port", type=int, default=18990, help="this one and the next")
    parser.add_argument("--peer", metavar="PROGRAM", help="vllm-router, in an environment of its own")
    options = parser.parse_args()
    os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
    print(json.dumps(machine()))
    rows = asyncio.run(measure(options))
    print(table(HEAD, [row.cells() for row in rows]))


if __name__ == "__main__":
    main()
