"""A cluster put together by hand: ``pagewire router``, ``prefill`` and ``decode``, over tcp.

Between the nodes and the router's mailbox may stand a ``Relay``, which has the cluster secret, and can say
more to either side than was said. Knows commands, addresses and messages as bytes; knows no scenario.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import here  # noqa: F401
import httpx
import psutil
import zmq
from cluster import HANDS_OVER, START_S, Cluster, tiny_folder

from pagewire.messages import DECODE, PREFILL, ROUTER
from pagewire.secret import apply_client, apply_server

SIZES = ("--load-format", "dummy", "--kv-cache-memory", "64MiB", "--threads-per-worker", "1")
Hook = Callable[[str, bytes], tuple[list[list[bytes]], list[list[bytes]]]]
# direction ("up" to the router, or "down"), message -> what to send before it, and after it


class Relay(threading.Thread):
    """Passes the mailbox's messages on, both ways, each over a connection with the right keys."""

    def __init__(self, router: str, secret: bytes) -> None:
        super().__init__(daemon=True)
        self._router, self._secret = router, secret
        self._context = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._guard = apply_server(self._front, secret, ROUTER, (PREFILL, DECODE))
        self._front.bind("tcp://127.0.0.1:*")
        self.address = self._front.getsockopt_string(zmq.LAST_ENDPOINT)
        self._back: dict[bytes, zmq.Socket[bytes]] = {}
        self._ending = threading.Event()
        self.hook: Hook = lambda direction, data: ([], [])
        self.passed: dict[str, list[tuple[bytes, bytes]]] = {"up": [], "down": []}  # identity, message
        self.extra = {"up": 0, "down": 0}
        self.current = b""  # whose connection the message of the hook came by

    def run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        while not self._ending.is_set():
            ready = dict(poller.poll(20))
            if self._front in ready:
                self._up(poller)
            for identity, back in list(self._back.items()):
                while back in ready and back.poll(0):
                    self._pass("down", identity, back.recv(), lambda p, i=identity: self._down(i, p))
        for socket_ in (self._front, *self._back.values()):
            socket_.close(linger=0)
        if self._guard is not None:
            self._guard.stop()
        self._context.term()

    def close(self) -> None:
        self._ending.set()
        self.join()

    def _up(self, poller: zmq.Poller) -> None:
        while self._front.poll(0):
            frames = self._front.recv_multipart(copy=False)
            assert self._guard is not None
            self._guard.met(frames[0])
            identity, data = (frame.bytes for frame in frames)
            if identity not in self._back:
                self._back[identity] = self._dial(identity, str(frames[0].get("User-Id")))
                poller.register(self._back[identity], zmq.POLLIN)
            self._pass("up", identity, data, self._back[identity].send_multipart)

    def _pass(self, way: str, identity: bytes, data: bytes, send: Callable[[list[bytes]], Any]) -> None:
        self.passed[way].append((identity, data))
        self.current = identity
        before, after = self.hook(way, data)
        for parts in [*before, [data], *after]:
            send(parts)
        self.extra[way] += len(before) + len(after)

    def _down(self, identity: bytes, parts: list[bytes]) -> None:
        self._front.send_multipart([identity, *parts])

    def _dial(self, identity: bytes, role: str) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.IDENTITY, identity)
        apply_client(made, self._secret, role, ROUTER)
        made.connect(self._router)
        return made


class ByHand(Cluster):
    """The programs. ``url`` is where the router serves; ``mailbox`` is where nodes reach it."""

    def __init__(self, secret: Path, *, relayed: bool = False, prefill: int = 1, decode: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pagewire-byhand-")
        self.model = str(tiny_folder(Path(self._folder.name) / "tiny"))
        self.secret = secret
        self.mailbox = f"tcp://127.0.0.1:{_free_port()}"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.relay = Relay(self.mailbox, secret.read_bytes()) if relayed else None
        self._roles = [PREFILL] * prefill + [DECODE] * decode
        self.children = {}
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, Path] = {}

    def __enter__(self) -> ByHand:
        listen = ("--listen", self.mailbox, "--port", str(self.port), *HANDS_OVER)
        self.process = self.start("router", "router", self.model, *listen)
        address = self.mailbox
        if self.relay is not None:
            self.relay.start()
            address = self.relay.address
        try:
            for number, role in enumerate(self._roles):
                handoff = ("--handoff", "tcp://127.0.0.1:0") if role == DECODE else ()
                name = f"{role}-{number}"
                self.start(name, role, self.model, *SIZES, "--router", address, "--node-id", name, *handoff)
            self.until(self.ready, START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.programs.values():
            process.terminate()
        for process in self.programs.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        if self.relay is not None:
            self.relay.close()
        self._folder.cleanup()

    def start(self, name: str, *command: str, secret: Path | None = None) -> subprocess.Popen[bytes]:
        """One command; what it says is in ``output``."""
        self.logs[name] = Path(self._folder.name) / f"{name}.log"
        quiet = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self.logs[name].open("ab") as log:
            self.programs[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pagewire.cli.main", *command),
                    *("--cluster-secret-file", str(secret or self.secret)),
                ],
                stdout=log,
                stderr=log,
                env=os.environ | quiet,
            )
        return self.programs[name]

    def output(self) -> str:
        return "".join(
            f"--- {name}\n{log.read_text(errors='replace')[-2000:]}" for name, log in self.logs.items()
        )

    def log_of(self, name: str) -> str:
        return self.logs[name].read_text(errors="replace")

    def metrics(self) -> dict[str, float]:
        """Every line of /metrics by its name and labels."""
        text = httpx.get(f"{self.url}/metrics").text
        return {m[1]: float(m[2]) for m in re.finditer(r"^(pagewire:\S+) (\S+)$", text, re.MULTILINE)}

    def refused(self, reason: str = "malformed") -> int:
        """What the router's mailbox counted."""
        return int(self.metrics()[f'pagewire:mailbox_refused_total{{reason="{reason}"}}'])

    def unread(self) -> int:
        """Messages of the router that the nodes could not read."""
        return int(sum(gauges.get("mailbox_refused", 0) for gauges in self.gauges().values()))

    def alive(self) -> list[str]:
        return [name for name, process in self.programs.items() if process.poll() is None]

    def memory(self) -> dict[str, int]:
        return {name: psutil.Process(p.pid).memory_info().rss for name, p in self.programs.items()}

    def wait_for_beats(self) -> None:
        time.sleep(1.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
