"""A cluster whose children write down what passes their edges, and the reading of it.

Knows processes, folders and trace lines; knows no scenario. Times are CLOCK_MONOTONIC, which all processes of
a host share, so that a line can be compared with the client's own clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from cluster import HANDS_OVER, START_S, Cluster, completion, tiny_folder

SERVE = Path(__file__).with_name("watched_serve.py")
TINY = ("--load-format", "dummy")


class Line(NamedTuple):
    """Something that ``where`` (a node's name or "router") saw, ``at`` in monotonic seconds."""

    at: float
    where: str
    kind: str
    facts: dict[str, Any]

    def __getitem__(self, name: Any) -> Any:
        return self.facts.get(name) if isinstance(name, str) else tuple.__getitem__(self, name)


class Trace:
    """All lines so far of the processes that write into ``folder``. ``read`` takes in what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.lines: list[Line] = []

    def read(self) -> list[Line]:
        """New lines, in the order of their times within each process."""
        new: list[Line] = []
        for file in sorted(self._folder.glob("*.trace")):
            with file.open("rb") as opened:
                opened.seek(self._read.get(file, 0))
                data = opened.read()
            whole = data.rfind(b"\n") + 1
            self._read[file] = self._read.get(file, 0) + whole
            name = file.name.split(".")[0]
            for line in data[:whole].splitlines():
                at, kind, facts = json.loads(line)
                new.append(Line(at, name, kind, facts))
        self.lines += sorted(new, key=lambda line: line.at)
        return new

    def of(self, *kinds: str) -> Iterator[Line]:
        return (line for line in self.lines if line.kind in kinds)

    def until(self, probe: Callable[[Line], bool], seconds: float) -> Line | None:
        """The first line, of those here and those to come, for which ``probe`` holds; None if none does."""
        end, looked = time.monotonic() + seconds, 0
        while True:
            found = next((line for line in self.lines[looked:] if probe(line)), None)
            if found is not None or time.monotonic() > end:
                return found
            looked = len(self.lines)
            if not self.read():
                time.sleep(0.0005)

    def forget(self, *but: str) -> None:
        """Drop the lines so far, but those of the kinds ``but``."""
        self.read()
        self.lines = [line for line in self.lines if line.kind in but]


class Watched(Cluster):
    """A ``Cluster`` whose children are watched. ``trace`` is what they saw."""

    def __init__(self, *args: str) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="pagewire-watched-")
        self.folder = Path(self._home.name)
        self.trace = Trace(self.folder)
        self.args = args
        self.log = tempfile.NamedTemporaryFile("w+", prefix="pagewire-test-", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(SERVE), str(self.folder), "serve", *HANDS_OVER, *args, "--port", "0"],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.url = ""
        self.children: dict[int, psutil.Process] = {}

    def __enter__(self) -> Watched:
        super().__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        try:
            super().__exit__(*details)
        finally:
            self._home.cleanup()

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Meanwhile the nodes do what the seeds of requests ask for."""
        flag = self.folder / "armed"
        flag.touch()
        try:
            yield
        finally:
            flag.unlink()

    def let_go(self, request: str) -> None:
        """A node that stands still for ``request`` may go on."""
        (self.folder / f"go-{request}").touch()

    def warm(self) -> None:
        """One request, so that nothing is done for the first time later on."""
        completion(self.url, prompt=[1000, 1001], max_tokens=4)
        self.until_nothing_is_held()
        self.trace.forget()

    def complete(self) -> bool:
        """Every node is here and has reported."""
        names = [f"{role}-{i}" for role in ("prefill", "decode") for i in range(self._count(f"--{role}"))]
        gauges = self.gauges()
        return all("pages_free" in gauges.get(name, ()) for name in names)

    def left_over(self, seconds: float = 10.0) -> dict[str, float]:
        """What is still held once all requests have ended and ``seconds`` have passed at most."""
        self.until(self.complete, START_S)
        time.sleep(1.2)  # two heartbeats: what is read now was reported after the last request ended
        end = time.monotonic() + seconds
        while (held := self.held()) and time.monotonic() < end:
            time.sleep(0.1)
        return held

    def _count(self, flag: str) -> int:
        return int(self.args[self.args.index(flag) + 1]) if flag in self.args else 1

    def preemptions(self) -> float:
        return sum(gauges["preemptions"] for gauges in self.gauges().values())


@contextlib.contextmanager
def watched(*flags: str) -> Iterator[Watched]:
    """A running cluster with a tiny model."""
    with tempfile.TemporaryDirectory(prefix="pagewire-model-") as folder:
        model = tiny_folder(Path(folder) / "tiny")
        with Watched(str(model), *TINY, *flags) as cluster:
            cluster.until(cluster.complete, START_S)
            cluster.warm()
            yield cluster
