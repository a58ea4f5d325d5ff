"""``--list``: what each case moves and computes, told without a GPU and without running any."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.gpu.conductor import Plan, Section, command, environment
from benchmarks.gpu.events import Event, Reader
from benchmarks.gpu.processes import Job, run_all
from benchmarks.gpu.rows import floor_us


def list_cases(chosen: Sequence[Section], plan: Plan, given: dict[str, float]) -> int:
    """Each section is built with tensors that have no memory, or where it needs numbers, with tiny ones."""
    for section in chosen:
        for how in ("meta", "tiny"):
            file = plan.folder / f"{section.name}_{how}.jsonl"
            arguments = ["--list", how, "--json", str(file)]
            log, proof = plan.folder / "list.log", environment(Plan(plan.folder, prove=True))
            job = Job("list", command(section, plan, *arguments), log, proof)
            run_all([job], 1, time.monotonic() + 60)
            events = Reader(file)()
            failed = [event["why"] for event in events if event["event"] == "failed"]
            if not failed and events and events[-1]["event"] == "end":
                break
        print(f"{section.name}{' (tiny shapes)' if how == 'tiny' else ''}")
        for event in events:
            if event["event"] == "case":
                print(f"  {event['kernel']:28} {event['shape']:40} {_floors(event, given)}".rstrip())
        for why in failed:
            print(f"  cannot be listed further: {why}")
    return 0


def _floors(event: Event, given: dict[str, float]) -> str:
    if "nbytes" not in event:
        return "a reading of its own"
    text = f"{event['nbytes'] / 1e6:10.3f} MB {event['flops'] / 1e9:12.4f} GFLOP"
    us, bound = floor_us(given, *(event[name] for name in ("nbytes", "flops", "moves", "rate")))
    text += f" {us:9.1f} us ({bound})" if us else ""
    return text + (f"  peers: {', '.join(event['peers'])}" if event["peers"] else "")
