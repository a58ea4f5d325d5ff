"""Starts a system, waits until it answers, and ends it with all its children. Knows no system by name."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
from measure import progress
from peer_client import PeerFailed

PORT = "{port}"  # in a command: a free one
START_S = 900.0  # torch.compile takes minutes on two cores
GRACE_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Command:
    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return shlex.join([*(f"{name}={value}" for name, value in self.env.items()), *self.words])

    def with_port(self, port: int) -> Command:
        return Command(tuple(word.replace(PORT, str(port)) for word in self.words), self.env)


@contextmanager
def serving(command: Command, ready: str) -> Iterator[str]:
    """The URL of a server that answers 200 at ``ready``. Raises PeerFailed."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with started(command.with_port(port)) as (child, log):
        end = time.monotonic() + START_S
        while not _answers(url + ready):
            if child.poll() is not None:
                raise PeerFailed(f"it ended with {child.returncode}:\n{_tail(log)}")
            if time.monotonic() > end:
                raise PeerFailed(f"not ready within {START_S:.0f} s:\n{_tail(log)}")
            time.sleep(0.5)
        yield url


def output_of(command: Command, seconds: float) -> str:
    """What it prints, when it has ended well. Raises PeerFailed."""
    with started(command, subprocess.PIPE) as (child, log):
        try:
            out, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise PeerFailed(f"still running after {seconds:.0f} s:\n{_tail(log)}") from error
        if child.returncode:
            raise PeerFailed(f"it ended with {child.returncode}:\n{_tail(log)}")
        return out.decode()


@contextmanager
def started(command: Command, stdout: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process in a group of its own, and the file with what it says; the group is gone after the block."""
    progress("")
    print(f"+ {command}", file=sys.stderr, flush=True)
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        child = subprocess.Popen(
            command.words,
            env=os.environ | dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=log if stdout is None else stdout,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield child, Path(log.name)
        finally:
            _end(child)
            if child.stdout is not None:
                child.stdout.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """First asks the leader alone: servers end their children in their own order."""
    groups = {child.pid, *(process.group for process in tree(child.pid))}
    child.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
    finally:
        for group in groups:
            with suppress(ProcessLookupError):  # all of it has ended
                os.killpg(group, signal.SIGKILL)
        child.wait()
        while any(process.group in groups and not process.dead for process in _all()):
            time.sleep(0.02)  # the next system must not share the cores with what is left of this one


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port: int = line.getsockname()[1]
        return port


class Process(NamedTuple):
    """``ticks`` of CPU: its own, and those of children that it has waited for."""

    pid: int
    parent: int
    group: int
    dead: bool  # and only not waited for
    ticks: int


def tree(root: int) -> list[Process]:
    """A process and all that came from it, whatever group they have moved to."""
    children: dict[int, list[Process]] = {}
    found = []
    for process in _all():
        children.setdefault(process.parent, []).append(process)
        if process.pid == root:
            found.append(process)
    for process in found:  # grows while it is walked
        found += children.get(process.pid, [])
    return found


def _all() -> Iterator[Process]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = path.read_text().rpartition(")")[2].split()
            pid, dead, ticks = int(path.parent.name), fields[0] in "ZX", sum(map(int, fields[11:15]))
            yield Process(pid, int(fields[1]), int(fields[2]), dead, ticks)


class Others:
    """How many cores were busy with anything but a tree of processes, since this was made.

    By default the tree is this program with all that it started.
    """

    def __init__(self, root: int | None = None) -> None:
        self._root = os.getpid() if root is None else root
        self._began, self._before = time.monotonic(), self._used()

    def cores(self) -> float:
        return max(0.0, self.seconds() / (time.monotonic() - self._began))

    def seconds(self) -> float:
        """Of CPU."""
        return self._used() - self._before

    def _used(self) -> float:
        user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8])
        ticks = user + nice + system + irq + soft - sum(process.ticks for process in tree(self._root))
        return ticks / _TICKS
