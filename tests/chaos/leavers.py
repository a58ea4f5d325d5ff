"""What clients that leave are held to, and the clients beside them that stay.

Knows bounds and rows; knows no fault. See ``hangups`` for how the figures of one client are read.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

from hangups import After, Caller
from report import Row
from streams import Ask, Outcome, stream
from watched import Watched

PAGES_S = 1.0
WASTED = 8  # tokens, but for a model so small that it computes more before a hang-up is noticed in time
NOTICED_S = 0.05
STEPS, STOP_S = 2, 0.2
FLAGS = ("--kv-cache-memory", "6MiB", "--max-num-batched-tokens", "64")
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "ignore_eos": True}


@dataclass(slots=True)
class Figures:
    """Holds each client that left to the bounds, and sums up by phase."""

    row: Row
    by_phase: dict[str, list[After]] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)

    def add(self, phase: str, caller: Caller, after: After, *, verified: bool) -> None:
        row, wrong = self.row, list(self._wrong(phase, after))
        self.by_phase.setdefault(phase, []).append(after)
        row.runs += 1
        row.units += 1
        row.verified += verified
        row.equal += not wrong
        row.took(after.pages_s or 0.0)
        row.leaked += after.kept
        row.problems += [f"{phase} seed {caller.seed}, {len(caller.tokens)} read: {text}" for text in wrong]

    def _wrong(self, phase: str, after: After) -> Iterator[str]:
        if phase == "parse":
            return
        if after.noticed_s is None or after.pages_s is None:
            yield f"noticed after {after.noticed_s} s, pages back after {after.pages_s} s"
        in_time = (after.noticed_s or 0.0) <= NOTICED_S and after.steps <= STEPS
        if after.wasted > WASTED and not in_time:
            yield f"{after.wasted} tokens wasted, noticed after {(after.noticed_s or 0) * 1000:.0f} ms"
        if after.steps > STEPS and after.stopped_s > STOP_S:
            yield f"{after.steps} steps and {after.stopped_s:.3f} s after the cancel"

    def close(self, cluster: Watched, stays: Stays) -> None:
        """Nothing is held; no page was reused or written to at the wrong time; who stayed was served."""
        row = self.row
        row.leaked += len(cluster.left_over())
        cluster.trace.read()
        row.problems += stays.problems
        for line in cluster.trace.of("reused", "stray_write"):
            row.problems.append(f"{line.where}: {line.kind} {line.facts}")
        handed, written = (_most(cluster, name) for name in ("handed", "written"))
        row.notes.append(
            f"beside them {stays.served} streams were read to the end; {handed} pages handed out and "
            f"{written} writes of frames were looked at"
        )
        row.notes += [self._note(phase, afters) for phase, afters in self.by_phase.items()]

    def _note(self, phase: str, afters: list[After]) -> str:
        noticed = [after.noticed_s * 1000 for after in afters if after.noticed_s is not None]
        pages = [after.pages_s * 1000 for after in afters if after.pages_s is not None]
        wasted = [after.wasted for after in afters]
        late = sum(value > PAGES_S * 1000 for value in pages)
        steps = max(after.steps for after in afters)
        return (
            f"{phase or 'any token'}: {len(afters)} clients, {self.missed.get(phase, 0)} more missed it; "
            f"close to cancel {_spread(noticed)} ms; cancel to pages {_spread(pages)} ms, {late} late; "
            f"wasted tokens {_spread(wasted)}; steps after it at most {steps}"
        )


def _most(cluster: Watched, name: str) -> int:
    """What the page guards of all nodes have counted."""
    last = {line.where: line.facts[name] for line in cluster.trace.of("load")}
    return sum(last.values())


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.3g} (at most {max(values):.3g})" if values else "-"


class Stays:
    """Clients that do not leave: the same few streams again and again, compared with ``known``."""

    def __init__(self, url: str, asks: Sequence[Ask], known: Sequence[Outcome], threads: int = 2) -> None:
        self._url, self._work, self._threads = url, list(zip(asks, known, strict=True)), threads
        self._stop = threading.Event()
        self.served = 0
        self.problems: list[str] = []

    @contextmanager
    def beside(self) -> Iterator[None]:
        """They come and go until the block ends."""
        with ThreadPoolExecutor(self._threads) as pool:
            futures = [pool.submit(self._run, number) for number in range(self._threads)]
            try:
                yield
            finally:
                self._stop.set()
        for future in futures:
            future.result()

    def _run(self, number: int) -> None:
        for turn in count(number, self._threads):
            if self._stop.is_set():
                return
            ask, right = self._work[turn % len(self._work)]
            salted = Ask(ask.prompt, ask.params | {"cache_salt": str(turn // len(self._work))})
            out = stream(self._url, salted)
            self.served += 1
            if not out.equals(right):
                self.problems.append(f"a client that stayed: error {out.error}, {out.count} of {right.count}")


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(1000, 40000) for _ in range(length)]


def kinds(rng: random.Random, number: int, longest: int, tokens: int) -> list[Ask]:
    """Different requests of ``tokens`` tokens, with prompts of 20 to ``longest``."""
    return [
        Ask(
            prompt(rng, rng.randrange(20, longest)),
            SAMPLED | {"seed": rng.getrandbits(40), "max_tokens": tokens},
        )
        for _ in range(number)
    ]
