"""``python -m benchmarks.gpu``: the order of things, and their shares of the time."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from benchmarks.gpu import checks, terminal
from benchmarks.gpu.conductor import (
    Outcome,
    Plan,
    Section,
    compile_ahead,
    conduct,
    sections,
)
from benchmarks.gpu.events import Event
from benchmarks.gpu.listing import list_cases
from benchmarks.gpu.options import parse
from benchmarks.gpu.processes import ROOT, Job, run_all
from benchmarks.gpu.report import Report, write
from benchmarks.gpu.rows import rows

RESERVE = 6.0  # seconds for the report and for processes that die slowly
# Parts of the whole time: compiling ahead; the same with the tests beside it; those tests; memcheck.
COMPILE, BESIDE, EXACT, SANITIZE = 0.2, 0.3, 0.22, 0.13
GENEROUS = 1.4  # times its part is what a section may take, since most take less
PAGE = ROOT / "docs" / "benchmarks" / "gpu.md"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.section:
        return one_section(options)
    chosen = sections(options.sections, options.only)
    signal.signal(signal.SIGTERM, _ended)
    with tempfile.TemporaryDirectory(prefix="pagewire-gpu-", ignore_cleanup_errors=True) as folder:
        plan = Plan(Path(folder), options.prove, options.tune, options.patience)
        if options.list:
            return list_cases(chosen, plan, options.given)
        return measure(chosen, plan, options)


def measure(chosen: Sequence[Section], plan: Plan, options: argparse.Namespace) -> int:
    report = Report("pagewire's kernels on a GPU", time.strftime("%Y-%m-%d"), driver(), plan.prove)
    run = Run(plan, options, report, Progress())
    try:
        run.compile_and_test(chosen)
        run.measure(chosen)
        run.sanitize()
    except BaseException as error:
        report.notes.append(f"ended from outside: {type(error).__name__} {error}")
        if not isinstance(error, KeyboardInterrupt | SystemExit):
            raise
    finally:
        run.keep()
        if options.out:
            _logs(plan.folder, options.out / "log.txt")
        print(f"\n{_page(report)}", flush=True)
    return 0 if report.good and not report.notes else 1


class Run:
    """One call, part by part. ``report`` holds at any moment what is known."""

    def __init__(self, plan: Plan, options: argparse.Namespace, report: Report, progress: Progress) -> None:
        self._plan, self._options, self._report, self._progress = plan, options, report, progress
        self._start = time.monotonic()
        self._deadline = self._start + options.seconds - RESERVE

    def compile_and_test(self, chosen: Sequence[Section]) -> None:
        beside = self._checks("exact", EXACT * self._options.seconds) if self._options.exact else []
        if beside or not self._plan.prove:  # a proof compiles nothing
            window = (BESIDE if beside else COMPILE) * self._options.seconds
            status, line = compile_ahead([] if self._plan.prove else chosen, self._plan, beside, window)
            self._progress.say(line)
            self._judge(beside, status)

    def measure(self, chosen: Sequence[Section]) -> None:
        sanitize = SANITIZE * self._options.seconds if self._options.sanitize else 0.0
        tune = self._options.tune_seconds if self._plan.tune else 0.0
        for i, section in enumerate(chosen):
            left = max(1.0, self._deadline - sanitize - time.monotonic())
            part = section.weight / sum(each.weight for each in chosen[i:])
            tune = min(tune, left / 2)
            seconds = min(left, GENEROUS * part * (left - tune) + part * tune)
            outcome = Outcome(section.name)
            self._report.outcomes.append(outcome)
            conduct(section, self._plan, outcome, seconds, part * tune, self._progress.show)
            tune -= outcome.tune_seconds
            self.keep()
            if outcome.unable:
                break

    def sanitize(self) -> None:
        if self._options.sanitize and not any(each.unable for each in self._report.outcomes):
            left = self._deadline - time.monotonic()
            jobs = self._checks("sanitize", max(20.0, left - 15))
            self._judge(jobs, run_all(jobs, 8, self._deadline))

    def keep(self) -> None:
        self._report.seconds = time.monotonic() - self._start
        if self._options.out:
            try:
                write(self._report, self._options.out, PAGE, ROOT / "kernels" / "tuned")
            except Exception:  # a fault of ours must not cost what was measured
                self._report.notes.append(f"no files: {traceback.format_exc(limit=-1)}")

    def _checks(self, kind: str, seconds: float) -> list[Job]:
        if why := checks.available(kind):
            self._report.notes.append(f"{kind} not run: {why}")
            return []
        return checks.jobs(kind, self._plan.folder, seconds, self._options.test_filter, self._plan.prove)

    def _judge(self, jobs: Sequence[Job], status: dict[str, int | None]) -> None:
        for job in jobs:
            verdict = checks.verdict(job, status[job.name])
            self._report.verdicts.append(verdict)
            self._progress.say(f"{verdict.name}: {verdict.line}")


def _page(report: Report) -> str:
    try:
        return terminal.page(report)
    except Exception:  # a fault of ours must not cost what was measured
        raw = [str(event) for outcome in report.outcomes for event in outcome.results]
        return "\n".join([*raw, traceback.format_exc()])


def _logs(folder: Path, target: Path) -> None:
    parts = []
    for log in sorted(folder.glob("*.log")):
        text = log.read_text(errors="replace").strip()
        parts += (
            [f"==== {log.stem}", text if len(text) < 40_000 else f"...\n{text[-40_000:]}", ""] if text else []
        )
    target.write_text("\n".join(parts))


def _ended(signum: int, _: FrameType | None) -> None:
    raise SystemExit(f"signal {signum}")


class Progress:
    """A line a case, while it goes on."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {line}"[:200], flush=True)

    def show(self, section: str, event: Event) -> None:
        with suppress(Exception):  # the event is kept whatever becomes of this line
            self.say(f"{section}: {_told(section, event)}")


def _told(section: str, event: Event) -> str:
    if event["event"] == "tuned":
        best = event["chosen"]
        what = f"{best['use']} {best['default_us'] / best['us']:.2f}x" if best else "the default is as good"
        return f"tuned {event['kernel']} {event['shape']}, {event['tried']} tried: {what}"
    if "figures" in event:
        return f"{event['kernel']} {event['shape']} {event['figures']}"
    [row] = rows(Outcome(section, results=[event]))
    peer = f" {row.ratio:.2f}x {row.peer}" if row.ratio is not None else ""
    return f"{row.kernel} {row.shape} {row.trouble or f'{row.us:.1f} us{peer}'}"


def driver() -> str:
    with suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split("\n")[0].strip()
    return ""


def one_section(options: argparse.Namespace) -> int:
    """What the processes that this one starts do; by hand it prints its events."""
    import torch

    from benchmarks.gpu import worker
    from benchmarks.gpu.events import Writer

    [section] = sections(options.sections, [options.section])
    skip: dict[int, frozenset[str]] = {}
    for each in options.skip:
        index, what = each.split(":", 1)
        skip[int(index)] = skip.get(int(index), frozenset()) | {what}
    orders = worker.Orders(
        path=section.path,
        prove=options.prove,
        first=options.first,
        skip=skip,
        seconds=options.seconds,
        tune_seconds=options.tune_seconds if options.tune else 0.0,
    )
    say = Writer(options.json)
    if options.list:
        tiny = options.list == "tiny"
        return worker.listed(orders, torch.device("cpu" if tiny else "meta"), tiny, say)
    if options.warm:
        shard, shards = map(int, options.warm.split("/"))
        return worker.warm_up(orders, shard, shards, say)
    return worker.work(orders, say)


if __name__ == "__main__":
    sys.exit(main())
