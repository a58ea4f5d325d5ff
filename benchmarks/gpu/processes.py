"""Child processes that may crash, hang or print too much: their output goes to a file, and they are ended
with all that they started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    def __init__(self, job: Job) -> None:
        self.job = job
        with job.log.open("ab") as log:
            self._process = subprocess.Popen(
                job.command,
                cwd=ROOT,
                env=os.environ | job.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        """It and all that it started. What hangs in the driver may take its time: we do not wait for it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"left with status {status}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


def last_words(log: Path, lines: int = 1) -> str:
    """The end of what a process printed."""
    if not log.exists():
        return ""
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(said[-lines:])


def run_all(jobs: Sequence[Job], at_once: int, deadline: float) -> dict[str, int | None]:
    """Each job's exit status; None for one that was not done when ``deadline`` (monotonic) came."""
    waiting, running = list(jobs), list[Child]()
    status: dict[str, int | None] = {job.name: None for job in jobs}
    try:
        while (waiting or running) and time.monotonic() < deadline:
            for child in [child for child in running if child.status is not None]:
                status[child.job.name] = child.status
                child.kill()  # what it left behind
                running.remove(child)
            while waiting and len(running) < at_once:
                running.append(Child(waiting.pop(0)))
            time.sleep(0.02)
    finally:
        for child in running:
            child.kill()
    return status
