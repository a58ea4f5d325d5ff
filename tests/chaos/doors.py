"""The two ports of pagewire under attack: a decode node's handoff, and a router's mailbox, as real processes.

Beside the attack somebody healthy goes on: a sender with transfers, or a node with heartbeats. Knows ports,
keys and counters; knows no attack.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import here  # noqa: F401
import httpx
import psutil
from byhand import _free_port
from hostile import until
from victim import SMALL, Victim

from pagewire.mailbox import SPEAKS, NodeMailbox, RouterLost
from pagewire.messages import Epoch, Hello, NodeId


class HandoffDoor:
    """A receiver, and a sender that does one transfer after the other."""

    name, side, clients = "handoff", "receiver", ("sender",)

    def __init__(self, secret: Path) -> None:
        self.secret = secret.read_bytes()
        self.victim = Victim("receiver", "tcp://127.0.0.1:*", secret)
        self.good = Victim("sender", "", secret)
        self.port = int(self.victim.address.rsplit(":", 1)[1])
        self.good.ask(start=[self.victim.address, 64, 1_000_000])
        until(lambda: self.good.ask()["ended"]["done"], 20, "a healthy transfer")
        self.victim.before = self.victim.peak = self.victim._private()
        self.process = psutil.Process(self.victim.process.pid)

    def look(self) -> float:
        return self.victim.look()

    @property
    def grown(self) -> float:
        return self.victim.grown

    def refusals(self) -> dict[str, int]:
        counts = self.victim.ask()["counts"]
        return {name: counts[name] for name in ("denied", "failed", "crowded")}

    def heard(self) -> int:
        """Frames and reservations that did not come from the healthy one."""
        report, good = self.victim.ask(), self.good.ask()
        return sum(report["counts"][name] for name in ("malformed", "version", "forged", "unknown")) + max(
            0, report["counts"]["reserved"] - good["counts"]["reserved"]
        )

    def sick(self) -> str:
        """What is wrong with the healthy one, or ""."""
        before = self.good.ask()["ended"]["done"]
        until(lambda: self.good.ask()["ended"]["done"] > before + 2, 20, "healthy transfers go on")
        ended, report = self.good.ask()["ended"], self.victim.ask()
        bad = (
            ended["lost"] or ended["refused"] or report["changed"] or len(set(report["landed"].values())) != 1
        )
        return f"{ended}, {report['changed']} pages changed" if bad else ""

    def log(self) -> list[str]:
        return [line for line in self.victim.log if "refused" in line or "hung up" in line]

    def close(self) -> None:
        self.good.__exit__()
        self.victim.__exit__()


class MailboxDoor:
    """``pagewire router``, and a node that has joined it."""

    name, side, clients = "mailbox", "router", ("prefill", "decode")

    def __init__(self, secret: Path) -> None:
        self.secret = secret.read_bytes()
        self.port, http = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{http}"
        self._log = tempfile.NamedTemporaryFile("w+", prefix="pagewire-door-")  # noqa: SIM115
        listen = ("--listen", f"tcp://127.0.0.1:{self.port}", "--port", str(http))
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "pagewire.cli.main", "router", "demo", *listen),
                *("--cluster-secret-file", str(secret)),
            ],
            stdout=self._log,
            stderr=self._log,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
        )
        self.process = psutil.Process(self._popen.pid)
        self.node = NodeMailbox(hello("decode"), [f"tcp://127.0.0.1:{self.port}"], self.secret)
        until(self._joined, 60, "a node joins the router")
        self._before = self._peak = self._private()

    def _joined(self) -> bool:
        try:
            nodes = httpx.get(f"{self.url}/health").json()["nodes"]
        except httpx.TransportError:
            return False
        return [node["node"] for node in nodes] == ["decode-x"]

    def _private(self) -> int:
        info = self.process.memory_info()
        return int(info.rss - info.shared)

    def look(self) -> float:
        now = self._private()
        self._peak = max(self._peak, now)
        return (now - self._before) / 2**20

    @property
    def grown(self) -> float:
        return (self._peak - self._before) / 2**20

    def _metrics(self) -> dict[str, int]:
        text = httpx.get(f"{self.url}/metrics").text
        found = re.findall(r'^pagewire:mailbox_refused_total\{reason="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return {name: int(float(value)) for name, value in found}

    def refusals(self) -> dict[str, int]:
        return {name: value for name, value in self._metrics().items() if name != "malformed"}

    def heard(self) -> int:
        return self._metrics()["malformed"] + (0 if self._joined() else 1)

    def sick(self) -> str:
        lost = [message for _, message in self.node.drain() if isinstance(message, RouterLost)]
        return f"the healthy node: {lost}, joined {self._joined()}" if lost or not self._joined() else ""

    def log(self) -> list[str]:
        text = Path(self._log.name).read_text(errors="replace")
        return [line for line in text.splitlines() if "refused" in line or "hung up" in line]

    def close(self) -> None:
        self.node.close()
        self._popen.terminate()
        self._popen.wait(20)
        self._log.close()


def hello(role: str, name: str = "x", **changes: Any) -> Hello:
    facts: dict[str, Any] = {"role": role, "version": SPEAKS, "layout": SMALL, "address": "tcp://127.0.0.1:1"}
    facts |= changes
    return Hello(
        node=NodeId(f"{role}-{name}"),
        epoch=Epoch("e"),
        pid=1,
        served_model="demo",
        max_model_len=64,
        num_pages=8,
        page_size=16,
        **facts,
    )


@contextmanager
def door(kind: type[HandoffDoor] | type[MailboxDoor], secret: Path) -> Iterator[HandoffDoor | MailboxDoor]:
    made = kind(secret)
    try:
        yield made
    finally:
        made.close()
