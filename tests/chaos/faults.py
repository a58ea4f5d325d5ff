"""A running cluster to hurt: kill -9 and SIGSTOP of the very process, at an exact point, and seen to be so.

Knows processes, signals and what nodes say they hold; knows no request and no verdict. A fault that cannot be
seen raises FaultMissing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from cluster import HANDS_OVER, Cluster
from report import FaultMissing

HELD = ("jobs", "landing", "live", "transfers_open", "pages_leased")
PAUSED_SERVE = Path(__file__).with_name("paused_serve.py")
TAKES_EFFECT_S = 2.0


class HurtCluster(Cluster):
    """``pagewire serve`` whose nodes can be held at exact points and tell what they hold without a router."""

    def __init__(self, *args: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pagewire-chaos-")
        self.folder = Path(self._folder.name)
        self.args = args
        self.log = tempfile.NamedTemporaryFile("w+", prefix="pagewire-chaos-", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(PAUSED_SERVE), "serve", *HANDS_OVER, *args, "--port", "0"],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PAGEWIRE_CHAOS": str(self.folder)},
        )
        self.url = ""
        self.children: dict[int, psutil.Process] = {}
        self.names: set[str] = set()  # of the nodes

    def __enter__(self) -> HurtCluster:
        super().__enter__()
        children = psutil.Process(self.process.pid).children()
        self.names = {child.cmdline()[-1] for child in children} - {"router"}
        return self

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()
        finally:
            self._folder.cleanup()

    def of(self, role: str) -> list[str]:
        return sorted(name for name in self.names if name.startswith(role))

    def whole(self) -> bool:
        """All nodes are there, heard of, and a request would be taken."""
        with suppress(httpx.TransportError):
            nodes = self.nodes()
            spoken = all(n["silent_s"] < 1 and n["load"]["gauges"] for n in nodes.values())
            return set(nodes) == self.names and spoken
        return False

    def own(self, name: str) -> dict[str, Any]:
        """What node ``name`` said last of itself, to a file; {} from a life that is over."""
        with suppress(FileNotFoundError):
            said: dict[str, Any] = json.loads((self.folder / f"{name}.load").read_text())
            if psutil.pid_exists(said["pid"]):
                return said
        return {}

    def gauge(self, name: str, key: str) -> float:
        said = self.own(name)
        return float(said["gauges"].get(key, 0)) if said else 0.0

    def still_held(self, since: float) -> dict[str, float]:
        """What nodes hold by their own word, where it is not zero; one that has not spoken since counts."""
        found: dict[str, float] = {}
        for name in self.names:
            said = self.own(name)
            if not said or said["at"] < since:
                found[f"{name}.silent"] = 1
                continue
            found |= {f"{name}.{key}": n for key in HELD if (n := said["gauges"].get(key, 0))}
        return found

    def freed(self, since: float, seconds: float) -> float | None:
        """Seconds after ``since`` until no node held anything; None if that took longer than ``seconds``."""
        while self.still_held(since):
            if time.monotonic() > since + seconds:
                return None
            time.sleep(0.01)
        return max(self.own(name)["at"] for name in self.names) - since

    def metric(self, name: str) -> float:
        """A counter of the router, all labels together."""
        page = httpx.get(f"{self.url}/metrics").text
        lines = [line for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    # --- faults ---------------------------------------------------------------------------------------------

    @contextmanager
    def hold(self, name: str, phase: str, after: int = 0) -> Iterator[Hold]:
        """Stop the loop of ``name`` where it passes ``phase`` the next time, or ``after`` times later."""
        gate = self.folder / f"{name}.{phase}"
        held = self.folder / f"{gate.name}.held"
        held.unlink(missing_ok=True)
        gate.write_text(str(after))
        hold = Hold(self, name, phase, gate, held)
        try:
            yield hold
        finally:
            hold.release()

    def kill_now(self, name: str) -> Killed:
        """kill -9. Raises FaultMissing unless the very process that was running is gone."""
        self.note_children()
        victim, at = psutil.Process(self.pid(name)), time.monotonic()
        victim.kill()
        _until(lambda: _dead(victim), TAKES_EFFECT_S, f"{name} was not killed")
        return Killed(name, victim.pid, at)

    def stop_now(self, name: str) -> AbstractContextManager[Stopped]:
        """SIGSTOP until the block ends, or ``wake``. Raises FaultMissing unless all threads stop."""
        return stopping(name, self.pid(name))

    def stop_supervisor(self) -> AbstractContextManager[Stopped]:
        """The same for the supervisor: nobody starts a dead child again."""
        return stopping("supervisor", self.process.pid)


@dataclass(frozen=True, slots=True)
class Killed:
    name: str
    pid: int
    at: float


@dataclass(slots=True)
class Stopped:
    """A process that got SIGSTOP."""

    name: str
    pid: int
    at: float
    woken: float = 0.0

    def asleep(self) -> bool:
        return _states(self.pid) == {"T"}

    def last(self, seconds: float) -> None:
        """Wait until it has been stopped for that long, looking that it is."""
        while time.monotonic() < self.at + seconds:
            if not self.asleep():
                raise FaultMissing(f"{self.name} woke up by itself")
            time.sleep(0.05)

    def wake(self) -> float:
        """SIGCONT. When that was."""
        if not self.woken:
            self.woken = time.monotonic()
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
        return self.woken


@dataclass(slots=True)
class Hold:
    """A phase that is closed on one node."""

    cluster: HurtCluster
    name: str
    phase: str
    gate: Path
    held: Path

    def reached(self, seconds: float = 20.0) -> None:
        """Wait until the node stands there. Raises FaultMissing if it does not, or is another process."""
        _until(self.held.exists, seconds, f"{self.name} did not come to {self.phase}")
        if json.loads(self.held.read_text())["pid"] != self.cluster.pid(self.name):
            raise FaultMissing(f"{self.name} died before it was hurt")

    def release(self) -> None:
        self.gate.unlink(missing_ok=True)


@contextmanager
def stopping(name: str, pid: int) -> Iterator[Stopped]:
    """SIGSTOP for ``pid`` until the block ends. Raises FaultMissing unless all its threads stop."""
    stopped = Stopped(name, pid, time.monotonic())
    os.kill(pid, signal.SIGSTOP)
    try:
        _until(stopped.asleep, TAKES_EFFECT_S, f"{name} did not stop")
        yield stopped
    finally:
        stopped.wake()


def _until(probe: Callable[[], bool], seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > end:
            raise FaultMissing(otherwise)
        time.sleep(0.005)


def _dead(process: psutil.Process) -> bool:
    """It is gone, or waits for its supervisor to notice."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _states(pid: int) -> set[str]:
    """States of all threads of a process, as /proc tells: T is stopped."""
    states = set()
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            states.add(task.read_text().rpartition(")")[2].split()[0])
    return states
