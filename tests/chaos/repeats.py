"""One scenario over and over: its cluster, its requests with what they give without a fault, its judgement.

Knows outcomes, the row and what must not be left over; knows no fault.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from cluster import tiny_folder
from faults import HurtCluster
from report import FaultMissing, Plan, Row
from streams import Ask, Flight, Outcome, oracle

QUIET_S = 5.0  # from the last stream's end until nothing is held
RESTART_S = 180.0  # until all processes are there again
SLACK = 2  # descriptors and threads more than before are no leak

_KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    {"temperature": 1.0, "n": 2},
)


def mixed(count: int, *, tokens: int, seed: int, prompt: tuple[int, int] = (150, 400)) -> list[Ask]:
    """Greedy, sampled and penalised requests of one and two choices, of ``tokens`` tokens a choice."""
    rng = random.Random(f"asks/{seed}")
    common = {"max_tokens": tokens, "ignore_eos": True, "timing": True}
    return [
        Ask(
            [rng.randrange(1000, 40_000) for _ in range(rng.randint(*prompt))],
            common | _KINDS[number % len(_KINDS)] | {"seed": rng.randrange(1 << 31)},
        )
        for number in range(count)
    ]


def silence(out: Outcome, since: float) -> float:
    """The longest that the client waited for news after ``since``."""
    news = [since, *(at for at in (*out.times, out.ended) if at > since)]
    return max((late - soon for soon, late in pairwise(news)), default=0.0)


def attempts(out: Outcome) -> int:
    """How many attempts the router says it made; 0 where it says nothing."""
    return int((out.timing or {}).get("attempts", 0))


@dataclass(slots=True)
class Trial:
    """One cluster with its requests. ``expected`` is what they give without a fault."""

    row: Row
    cluster: HurtCluster
    asks: list[Ask]
    expected: list[Outcome] = field(default_factory=list)
    salt: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    _before: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)

    def launch(self, asks: Sequence[Ask] | None = None) -> Flight:
        """All requests at once. No repeat finds the prefixes of another in a cache."""
        salted = [replace(a, params=a.params | {"cache_salt": self.salt}) for a in asks or self.asks]
        return Flight(self.cluster.url, salted)

    def judge(self, outcomes: list[Outcome], errors: Collection[str] = ()) -> None:
        """Each as the oracle's, or ended with one of ``errors`` after a beginning of it."""
        row = self.row
        with self.lock:
            for number, (out, expected) in enumerate(zip(outcomes, self.expected, strict=False)):
                row.units += 1
                if out.equals(expected):
                    row.equal += 1
                elif {out.error, out.code} & set(errors) and out.begins(expected) and out.terminals <= 1:
                    row.named += 1
                else:
                    row.problems.append(f"{self.salt}: request {number}: {_difference(out, expected)}")

    def took(self, seconds: float) -> None:
        with self.lock:
            self.row.took(seconds)

    def problem(self, text: str) -> None:
        with self.lock:
            self.row.problems.append(f"{self.salt}: {text}")

    def sweep(self, ended: float) -> None:
        """All are there again, nothing is held, and no process has more open than before."""
        self.cluster.until(self.cluster.whole, RESTART_S)
        if self.cluster.freed(ended, QUIET_S) is None:
            self._leaks(self.cluster.still_held(ended))
        end = time.monotonic() + QUIET_S
        while (held := self.cluster.held()) and time.monotonic() < end:
            time.sleep(0.1)
        self._leaks(held)
        while (more := self._more()) and time.monotonic() < end:
            time.sleep(0.1)
        self._leaks(more)

    def _leaks(self, held: dict[str, Any]) -> None:
        with self.lock:
            self.row.leaked += len(held)
        if held:
            self.problem(f"still held: {held}")

    def _more(self) -> dict[str, Any]:
        """Processes with more open files or threads than when they were first quiet, by how many of both.

        A node opens its side of the handoff when it is first used.
        """
        found = {}
        used = (name for name in sorted(self.cluster.names) if self.cluster.gauge(name, "transfer_reserved"))
        for name in (*used, "router"):
            process = psutil.Process(self.cluster.pid(name))
            now = process.num_fds(), process.num_threads()
            first = self._before.setdefault((name, process.pid), now)
            if max(now[0] - first[0], now[1] - first[1]) > SLACK:
                found[name] = f"{first} -> {now}"
        return found


def _difference(out: Outcome, expected: Outcome) -> str:
    if out.error is not None and not out.begins(expected):
        return f"{out.error} ({out.code}) after wrong tokens"
    if out.error is not None:
        return f"{out.error} ({out.code}) after {out.count} tokens, {out.terminals} ends"
    for choice, tokens in expected.tokens.items():
        got = out.tokens.get(choice, [])
        if got != tokens:
            same = next(
                (i for i, pair in enumerate(zip(got, tokens, strict=False)) if pair[0] != pair[1]), None
            )
            where = f"from token {same}" if same is not None else f"{len(got)} of {len(tokens)} tokens"
            return f"choice {choice} differs, {where}; {attempts(out)} attempts"
    return f"ended {out.terminals} times, {out.finish}"


Once = Callable[[Trial, random.Random, int], None]


def repeat(
    row: Row, plan: Plan, args: Sequence[str], asks: list[Ask], once: Once, *, side_by_side: int = 1
) -> Row:
    """Run ``once`` as often as the plan says, on up to ``side_by_side`` clusters started with ``args``.

    ``once`` returns if its fault has happened, else it raises FaultMissing.
    """
    jobs = list(enumerate(plan.seeds()))
    lanes = min(side_by_side, len(jobs))
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="pagewire-chaos-") as folder, ThreadPoolExecutor(lanes) as pool:
        model = str(tiny_folder(Path(folder) / "tiny"))
        flags = [model, "--load-format", "dummy", "--kv-cache-memory", "32MiB"]
        flags += ["--max-num-batched-tokens", "64", *args]
        futures = [
            pool.submit(_lane, row, plan, flags, asks, once, jobs[lane::lanes], lock) for lane in range(lanes)
        ]
        for future in futures:
            future.result()
    return row


def _lane(
    row: Row,
    plan: Plan,
    flags: list[str],
    asks: list[Ask],
    once: Once,
    jobs: list[tuple[int, random.Random]],
    lock: threading.Lock,
) -> None:
    with HurtCluster(*flags) as cluster:
        cluster.until(cluster.whole, RESTART_S)  # the oracle is to go through all of them
        trial = Trial(row, cluster, asks, oracle(cluster.url, asks), lock=lock)
        trial.sweep(time.monotonic())
        for number, rng in jobs:
            trial.salt = f"repeat {number}"
            with lock:
                row.runs += 1
            try:
                once(trial, rng, number)
            except FaultMissing as missing:
                trial.problem(f"the fault did not happen: {missing}")
                cluster.until(cluster.whole, RESTART_S)
                continue
            with lock:
                row.verified += 1
            plan.step(f"{row.verified} of {plan.repeats} repeats, {row.units} requests")
