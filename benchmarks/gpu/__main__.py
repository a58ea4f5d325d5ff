"""``python -m benchmarks.gpu``: the order of things, and their shares of the time."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
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
from benchmarks.gpu.rows import Row, rows

RESERVE = 6.0  # seconds for the report and for processes that die slowly
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
    start = time.monotonic()
    deadline = start + options.seconds - RESERVE
    report = Report("pagewire's kernels on a GPU", time.strftime("%Y-%m-%d"), driver(), plan.prove)
    progress = Progress(start)
    try:
        beside = _checks("exact", options, plan, report, 0.22 * options.seconds) if options.exact else []
        if beside or not plan.prove:  # a proof compiles nothing
            window = (0.3 if beside else 0.2) * options.seconds
            status, line = compile_ahead([] if plan.prove else chosen, plan, beside, window)
            progress.say(line)
            report.verdicts += [checks.verdict(job, status[job.name]) for job in beside]
            for verdict in report.verdicts:
                progress.say(f"{verdict.name}: {verdict.line}")
        sanitize = 0.13 * options.seconds if options.sanitize else 0.0
        tune = options.tune_seconds if plan.tune else 0.0
        for i, section in enumerate(chosen):
            left, weight = deadline - sanitize - time.monotonic(), sum(each.weight for each in chosen[i:])
            tune_share = min(tune, left / 2) * section.weight / weight
            share = (left - min(tune, left / 2)) * section.weight / weight + tune_share
            outcome = Outcome(section.name)
            report.outcomes.append(outcome)
            conduct(section, plan, outcome, max(share, 1.0), tune_share, progress.show)
            tune = max(0.0, tune - outcome.tune_seconds)
            _keep(report, options, start)
            if outcome.unable:
                break
        if options.sanitize:
            jobs = _checks("sanitize", options, plan, report, max(20.0, deadline - time.monotonic() - 15))
            status = run_all(jobs, 8, deadline)
            report.verdicts += [checks.verdict(job, status[job.name]) for job in jobs]
    except BaseException as error:
        report.notes.append(f"ended from outside: {type(error).__name__} {error}")
        if not isinstance(error, KeyboardInterrupt | SystemExit):
            raise
    finally:
        _keep(report, options, start)
        if options.out:
            _logs(plan.folder, options.out / "log.txt")
        print(f"\n{terminal.page(report)}", flush=True)
    return 0 if report.good and not report.notes else 1


def _checks(kind: str, options: argparse.Namespace, plan: Plan, report: Report, seconds: float) -> list[Job]:
    if why := checks.available(kind):
        report.notes.append(f"{kind} not run: {why}")
        return []
    return checks.jobs(kind, plan.folder, seconds, options.test_filter, plan.prove)


def _keep(report: Report, options: argparse.Namespace, start: float) -> None:
    report.seconds = time.monotonic() - start
    if options.out:
        write(report, options.out, PAGE, ROOT / "kernels" / "tuned")


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

    def __init__(self, start: float) -> None:
        self._start = start

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {line}"[:200], flush=True)

    def show(self, section: str, event: Event) -> None:
        if event["event"] == "tuned":
            best = event["chosen"]
            what = (
                f"{best['use']} {best['default_us'] / best['us']:.2f}x" if best else "the default is as good"
            )
            self.say(f"{section}: tuned {event['kernel']} {event['shape']}, {event['tried']} tried: {what}")
        elif "figures" in event:
            self.say(f"{section}: {event['kernel']} {event['shape']} {event['figures']}")
        else:
            row: Row = rows(Outcome(section, results=[event]))[0]
            peer = f" {row.ratio:.2f}x {row.peer}" if row.ratio is not None else ""
            self.say(f"{section}: {row.kernel} {row.shape} {row.trouble or f'{row.us:.1f} us{peer}'}")


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
