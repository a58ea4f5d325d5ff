"""What pagewire costs beside its speed: starts, memory, idle CPU, and a token as context and batch grow.

    python benchmarks/cost.py [--model demo] [--json out.json]

    start     from the command to /ready, with nothing kept from an earlier start and with packed weights on
              disk (the page cache is warm both times)
    memory    of each process, in MiB: resident; its part where pages are shared (PSS). Idle, and grown by
              prompts of 2,000 tokens
    idle      CPU time of all processes together, in percent of one core
    token     milliseconds of a step for each of its tokens, on all cores, by batch at 256 tokens of context
              and by context at batch 1

Nothing else should run. Knows processes by name; the engine is asked as `pagewire bench engine` asks it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from measure import Middle, machine, progress, table

from pagewire.engine import bench
from pagewire.engine.build import build_engine
from pagewire.hub import resolve

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (256, 512, 1_024, 2_048, 4_096, 8_000)
PROMPTS, PROMPT = 4, 2_000  # that make memory grow
STARTS, IDLE_S, REPEATS = 3, 20.0, 3
MIB = 1 << 20


@contextmanager
def served(model: str, cache: Path) -> Iterator[tuple[str, float, dict[str, psutil.Process]]]:
    """Where it serves, the seconds until it did, and its processes by name."""
    port = 20_000 + os.getpid() % 20_000
    words = [sys.executable, "-m", "pagewire.cli.main", "serve", model, "--port", str(port)]
    words += ["--disaggregate", "always"]
    url, began = f"http://127.0.0.1:{port}", time.perf_counter()
    environment = os.environ | {"PAGEWIRE_CACHE": str(cache)}
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as server:
        try:
            while not ready(url):
                assert server.poll() is None, "it did not start"
                time.sleep(0.01)
            seconds = time.perf_counter() - began
            yield url, seconds, processes(server.pid)
        finally:
            server.terminate()


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def processes(pid: int) -> dict[str, psutil.Process]:
    parent = psutil.Process(pid)
    return {"supervisor": parent} | {child.cmdline()[-1]: child for child in parent.children()}


def memory(found: dict[str, psutil.Process]) -> dict[str, dict[str, float]]:
    full = {name: process.memory_full_info() for name, process in found.items()}
    return {name: {"resident": m.rss / MIB, "part": m.pss / MIB} for name, m in full.items()}


def cpu(found: dict[str, psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in found.values())


def read_prompts(url: str) -> None:
    for number in range(PROMPTS):
        pick = random.Random(number)
        body = {"prompt": pick.choices(range(1_000, 30_000), k=PROMPT), "max_tokens": 2}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()


def system(model: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        starts = []
        for number in range(1 + STARTS):
            progress(f"start {number + 1} of {1 + STARTS}")
            with served(model, Path(folder)) as (url, seconds, found):
                starts.append(seconds)
                if number < STARTS:
                    continue
                progress("idle")
                time.sleep(3.0)
                idle, before = memory(found), cpu(found)
                time.sleep(IDLE_S)
                share = (cpu(found) - before) / IDLE_S
                read_prompts(url)
                grown = memory(found)
    return {"cold_s": starts[0], "warm_s": starts[1:], "idle": idle, "grown": grown, "idle_cpu": share}


def tokens(model: str) -> dict[str, dict[int, float]]:
    """Milliseconds a token: by batch, and by context."""
    built = build_engine(resolve(model), prefix_caching=False, max_num_seqs=max(BATCHES))

    def cost(batch: int, context: int) -> float:
        progress(f"batch {batch}, context {context}")
        return 1e3 / Middle.of(bench.decode(built.engine, batch, context) for _ in range(REPEATS)).median

    limit = built.engine.config.max_model_len - 64
    return {
        "batch": {batch: cost(batch, 256) for batch in BATCHES},
        "context": {context: cost(1, context) for context in CONTEXTS if context <= limit},
    }


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", default="demo")
    words.add_argument("--json", type=Path, help="write every number here")
    args = words.parse_args()
    where = machine()
    facts = system(args.model)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    costs = tokens(args.model)
    progress("")
    print(json.dumps(where), f"load at the end {machine()['load']}", sep="\n")
    show(facts, costs)
    if args.json:
        args.json.write_text(json.dumps({"machine": where, "system": facts, "ms_a_token": costs}, indent=1))


def show(facts: dict[str, object], costs: dict[str, dict[int, float]]) -> None:
    warm, idle, grown = facts["warm_s"], facts["idle"], facts["grown"]
    assert isinstance(warm, list)
    assert isinstance(idle, dict)
    assert isinstance(grown, dict)
    middle = Middle.of(warm)
    print(
        f"\nstart: {facts['cold_s']:.1f} s cold, {middle.median:.1f} s warm ({min(warm):.1f}-{max(warm):.1f})"
    )
    print(f"idle: {facts['idle_cpu']:.2%} of one core\n")
    head = ("MiB", "resident", "its part", f"part after {PROMPTS * PROMPT:,} tokens")
    sums = ("all", "", *(f"{sum(m['part'] for m in each.values()):.0f}" for each in (idle, grown)))
    rows = [
        (name, f"{m['resident']:.0f}", f"{m['part']:.0f}", f"{grown[name]['part']:.0f}")
        for name, m in idle.items()
    ]
    print(table(head, [*rows, sums]))
    for what, by in costs.items():
        print("\n" + table((what, *map(str, by)), [("ms a token", *(f"{ms:.2f}" for ms in by.values()))]))


if __name__ == "__main__":
    main()
