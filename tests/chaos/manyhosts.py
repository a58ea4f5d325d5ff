"""pagewire on several hosts: the very commands of a deployment, each in a network namespace of its own.

Knows command lines, addresses and /health; knows no fault. The hosts are ``router``, ``prefill-0``, ...,
``decode-0``, ...; a node is named as its host. A process that ends is a death: it is noted, and it is
started again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import netns
from badwire import BadWire
from cluster import HANDS_OVER, START_S, Cluster, tiny_folder
from netns import Host

ROUTER = "router"
HTTP, MAILBOX, HANDOFF = 8000, 7500, 7600
_SIZES = ("--load-format", "dummy", "--kv-cache-memory", "64MiB", "--threads-per-worker", "1")


@dataclass(slots=True)
class Program:
    """One command on its host. ``log`` keeps what all its lives wrote."""

    host: Host
    command: list[str]
    log: Any = field(default_factory=lambda: tempfile.NamedTemporaryFile("w+", prefix="pagewire-"))  # noqa: SIM115
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        quiet = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = self.host.start(self.command, self.log, os.environ | quiet)

    def output(self) -> str:
        return Path(self.log.name).read_text(errors="replace")


class ManyHosts(Cluster):
    """A router, ``prefill`` and ``decode`` nodes, a host each, and the ``wire`` between them.

    A context manager. Inside of it this thread is on the router's host, and so are threads that it starts:
    clients reach the router at ``url`` over no wire.
    """

    def __init__(self, prefill: int, decode: int, seed: str, *extra: str) -> None:
        names = [ROUTER, *(f"prefill-{n}" for n in range(prefill)), *(f"decode-{n}" for n in range(decode))]
        self.hosts = {name: netns.host(name, f"10.77.0.{n}") for n, name in enumerate(names, start=1)}
        self.wire = BadWire(list(self.hosts.values()), seed)
        self.deaths: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="pagewire-hosts-")
        self.programs = {name: Program(host, self._command(host, extra)) for name, host in self.hosts.items()}
        self._stack = contextlib.ExitStack()
        self.url = f"http://{self.hosts[ROUTER].address}:{HTTP}"

    def __enter__(self) -> ManyHosts:
        try:
            for program in self.programs.values():
                program.start()
            self._stack.enter_context(self.hosts[ROUTER].inside())
            self.until(self.together, 2 * START_S)  # up to seven processes, each a host
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything, in order or by force; the hosts vanish with their last process."""
        self._stack.close()
        alive = [p.process for p in self.programs.values() if p.process is not None]
        for process in alive:
            process.terminate()
        end = time.monotonic() + 15
        for process in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            process.kill()
            process.wait()
        for program in self.programs.values():
            program.log.close()
        self.wire.__exit__()
        for host in self.hosts.values():
            host.close()
        self._folder.cleanup()

    def _command(self, host: Host, extra: tuple[str, ...]) -> list[str]:
        """What the documents tell to run on ``host``."""
        model, router = self._model(), self.hosts[ROUTER].address
        secret = Path(self._folder.name) / "secret"
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_bytes(secrets.token_bytes(32))
        role = host.name.partition("-")[0]
        pagewire = [sys.executable, "-m", "pagewire.cli.main", role, str(model)]
        pagewire += ["--cluster-secret-file", str(secret)]
        if host.name == ROUTER:
            listen = (
                "--listen",
                f"tcp://{router}:{MAILBOX}",
                "--host",
                router,
                "--port",
                str(HTTP),
                "--insecure",
            )
            return [*pagewire, *listen, *HANDS_OVER, "--placement", "load"]  # scenarios count on names
        pagewire += ["--router", f"tcp://{router}:{MAILBOX}", "--node-id", host.name, *_SIZES, *extra]
        return pagewire + (["--handoff", f"tcp://0.0.0.0:{HANDOFF}"] if role == "decode" else [])

    def _model(self) -> Path:
        folder = Path(self._folder.name) / "tiny"
        return folder if folder.exists() else tiny_folder(folder)

    # --- how it does ----------------------------------------------------------------------------------------

    def until(self, probe: Callable[[], Any], seconds: float) -> Any:
        """Ask until ``probe`` says something true. Fails with what all programs wrote."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.mend()
            with contextlib.suppress(httpx.TransportError):
                if found := probe():
                    return found
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds:g} s:\n{self.output()}")

    def mend(self) -> None:
        """Start again what has ended, and note it."""
        for name, program in self.programs.items():
            if program.process is not None and (code := program.process.poll()) is not None:
                self.deaths.append(f"{name} ended with {code}: {program.output()[-2000:]}")
                program.start()

    def together(self) -> bool:
        """All nodes have joined, and all are heard."""
        found = self.nodes()
        return len(found) == len(self.hosts) - 1 and not any(node["suspect"] for node in found.values())

    def output(self) -> str:
        return "\n".join(f"--- {name}\n{program.output()[-4000:]}" for name, program in self.programs.items())
