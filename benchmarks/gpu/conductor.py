"""Runs sections one after another, each in a process of its own, within a time that all share.

A section that crashes, hangs or kills its CUDA context loses the case that did it: it is started again
behind that case, or at it without the peer or the tuning that did it. What a section has said stands. Knows
processes and events; loads no torch.
"""

from __future__ import annotations

import ast
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.events import Event, Reader
from benchmarks.gpu.processes import Child, Job, ending, last_words, run_all

RESTARTS = 4  # of a section
LONG = 90.0  # seconds of silence at the least while a process loads torch, or a section a model
LONG_STAGES = ("start", "import", "build", "read")


@dataclass(frozen=True)
class Section:
    name: str
    path: Path
    weight: float = 1.0
    alone: bool = False


@dataclass(frozen=True)
class Plan:
    folder: Path  # for events and logs
    prove: bool = False
    tune: bool = False
    patience: float = 30.0  # seconds of silence after which a case is taken to hang


@dataclass
class Outcome:
    """What became of a section."""

    name: str
    about: Event = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    results: list[Event] = field(default_factory=list)  # also of cases that failed: those have "why"
    tuned: list[Event] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    finished: bool = False
    unable: bool = False
    seconds: float = 0.0
    tune_seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.finished and all(each.get("ok", "figures" in each) for each in self.results)


Show = Callable[[str, Event], None]


def sections(folder: Path, names: Sequence[str] | None = None) -> list[Section]:
    """Those in ``folder``, by name; only ``names`` of them, if given, and then in that order."""
    found = {path.stem.removeprefix("section_"): path for path in sorted(folder.glob("section_*.py"))}
    if names is not None and (unknown := set(names) - set(found)):
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; there are: {', '.join(found)}")
    return [_section(name, found[name]) for name in (found if names is None else names)]


def _section(name: str, path: Path) -> Section:
    """Its constants are read from its text, so that what fails to import fails in its own process."""
    constants: dict[str, Any] = {}
    try:
        for node in ast.parse(path.read_text()).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=constant)], value=ast.Constant(value=value)):
                    constants[constant] = value
    except SyntaxError:
        pass
    return Section(name, path, float(constants.get("WEIGHT", 1)), bool(constants.get("ALONE", False)))


def command(section: Section, plan: Plan, *arguments: str) -> list[str]:
    flags = ["--prove"] if plan.prove else []
    where = ["--section", section.name, "--sections", str(section.path.parent)]
    return [sys.executable, "-m", "benchmarks.gpu", *where, *flags, *arguments]


def environment(plan: Plan) -> dict[str, str]:
    if not plan.prove:
        return {"TRITON_INTERPRET": "0"}
    # Nothing is compiled for a proof, neither kernels nor peers.
    return {"TRITON_INTERPRET": "1", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def compile_ahead(
    chosen: Sequence[Section], plan: Plan, beside: Sequence[Job], seconds: float
) -> tuple[dict[str, int | None], str]:
    """Fill Triton's cache on disk by many processes at once, while nothing is timed; run the jobs ``beside``
    meanwhile. Returns how those ended, and a line to print."""
    start, cores = time.monotonic(), os.cpu_count() or 1
    together = [section for section in chosen if not section.alone]
    shards = max(1, cores // max(1, len(together)))
    jobs, files = [], []
    for section in together:
        for shard in range(shards):
            name = f"warm_{section.name}_{shard}"
            files.append(plan.folder / f"{name}.jsonl")
            arguments = ["--warm", f"{shard}/{shards}", "--json", str(files[-1]), "--seconds", f"{seconds}"]
            arguments += ["--tune"] if plan.tune else []
            log = plan.folder / f"{name}.log"
            jobs.append(Job(name, command(section, plan, *arguments), log, environment(plan)))
    # They wait for the card and for the compiler in turns: some more than there are cores.
    status = run_all([*jobs, *beside], cores + 8, start + seconds)
    said = [event["event"] for file in files for event in Reader(file)()]
    line = f"compiled ahead: {said.count('warm')} launches in {time.monotonic() - start:.0f} s"
    if failed := said.count("cold"):
        line += f", {failed} failed (their cases will say why)"
    return {job.name: status[job.name] for job in beside}, line


def conduct(
    section: Section, plan: Plan, outcome: Outcome, seconds: float, tune_seconds: float, show: Show
) -> None:
    """Run ``section``; ``outcome`` holds at any moment what is known."""
    start = time.monotonic()
    deadline, first, skip = start + seconds, 0, list[str]()
    log = plan.folder / f"{section.name}.log"
    for attempt in range(RESTARTS + 1):
        file = plan.folder / f"{section.name}_{attempt}.jsonl"
        left = [
            f"{deadline - time.monotonic():.1f}",
            "--tune-seconds",
            f"{tune_seconds - outcome.tune_seconds}",
        ]
        arguments = ["--json", str(file), "--first", str(first), "--seconds", *left]
        arguments += [word for each in skip for word in ("--skip", each)] + ["--tune"] * plan.tune
        child = Child(Job(section.name, command(section, plan, *arguments), log, environment(plan)))
        try:
            watch = _Watch(outcome, show)
            why = watch(child, Reader(file), deadline, plan.patience)
        finally:
            child.kill()
        if not why:
            break
        if time.monotonic() > deadline:
            outcome.notes.append(f"out of time {watch.at()}")
            break
        again = _again(watch, why, log)
        if again is None:
            break
        first = again[0]
        skip += again[1]
        if attempt == RESTARTS:
            outcome.notes.append(f"given up after {RESTARTS} restarts {watch.at()}")
    outcome.seconds = time.monotonic() - start


class _Watch:
    """Takes in what one process says until it ends, hangs or is out of time."""

    def __init__(self, outcome: Outcome, show: Show) -> None:
        self.outcome, self._show = outcome, show
        self.stage: Event = {"index": 0, "stage": "start", "kernel": "", "shape": ""}
        self.ended = self.late = False
        self.dead = ""

    def __call__(self, child: Child, read: Reader, deadline: float, patience: float) -> str:
        """Why there is something left to do; empty if the section is through."""
        heard = time.monotonic()
        while True:
            status = child.status  # before reading: what was said before the end is read after it
            for event in read():
                heard = time.monotonic()
                self._take(event)
            if status is not None:
                if self.ended or self.outcome.unable:
                    return ""
                return self.dead or ending(status)
            if time.monotonic() > deadline + 1:
                return "out of time"
            limit = max(patience, LONG) if self.stage["stage"] in LONG_STAGES else patience
            if time.monotonic() - heard > limit:
                return f"hung: nothing for {limit:.0f} s"
            time.sleep(0.02)

    def at(self) -> str:
        where = f"{self.stage['kernel']} {self.stage['shape']}".strip() or f"case {self.stage['index']}"
        return f"at {where} ({self.stage['stage']})"

    def fail(self, why: str) -> None:
        kernel = self.stage["kernel"] or f"section_{self.outcome.name}"
        shape = self.stage["shape"] or f"{self.stage['stage']} of case {self.stage['index']}"
        event = {
            "event": "failed",
            "index": self.stage["index"],
            "kernel": kernel,
            "shape": shape,
            "why": why,
        }
        self._take(event)

    def _take(self, event: Event) -> None:
        outcome = self.outcome
        match event["event"]:
            case "start":
                outcome.about = event
            case "ceilings":
                # A second process of this section has a warmer card: the first one's are as good.
                outcome.ceilings = outcome.ceilings or event["found"]
                outcome.missing = event["missing"]
            case "stage":
                self.stage = event
            case "result" | "failed":
                outcome.results.append(event)
                self._show(outcome.name, event)
            case "tuned":
                outcome.tuned.append(event)
                outcome.tune_seconds += event["seconds"]
                self._show(outcome.name, event)
            case "dead":
                self.dead = event["why"]
            case "late":
                outcome.notes.append(f"out of time before case {event['index']}")
                self.ended = True
            case "unable":
                outcome.unable = True
                outcome.notes.append(event["why"])
            case "end":
                self.ended = outcome.finished = True


def _again(watch: _Watch, why: str, log: Path) -> tuple[int, list[str]] | None:
    """After a process died: at which case to start again and what to leave out there; None: not at all."""
    index, stage = watch.stage["index"], watch.stage["stage"]
    if not watch.dead and (words := last_words(log)):
        why = f"{why}: {words[-200:]}"
    if stage.startswith("tune "):
        watch.outcome.notes.append(f"tuning ended {watch.at()}: {why}")
        return index, [f"{index}:tune"]
    if stage.startswith("peer "):
        watch.outcome.notes.append(f"a peer ended the process {watch.at()}: {why}")
        return index, [f"{index}:{stage.removeprefix('peer ')}"]
    watch.fail(f"{stage}: {why}")
    return None if stage in ("start", "import", "build") else (index + 1, [])
