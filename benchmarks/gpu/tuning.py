"""Which of a case's launch parameters is the fastest that is also right.

Candidates are tried by short readings; the best must then beat what would be launched without it in both of
two full rounds, by more than the rounds differ, and give a right result. Knows ``kernels.tuned``'s words and
one case at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.case import Case, Run
from benchmarks.gpu.events import Writer
from benchmarks.gpu.timing import alive, synchronize, timer
from kernels import tuned

Use = Mapping[str, int]
Key = tuple[str, tuple[tuple[str, int], ...]]

QUICK = 0.04  # seconds for the reading of a candidate
LEAST_GAIN = 0.02  # what is not faster by this is not worth an entry


@dataclass(frozen=True)
class Choice:
    kernel: str
    shape: Mapping[str, int]
    use: Use
    us: float
    default_us: float

    def applied(self) -> tuned.override:
        return tuned.override(self.kernel, self.use)

    def said(self) -> dict[str, Any]:
        numbers = {"us": self.us, "default_us": self.default_us}
        return {"kernel": self.kernel, "shape": dict(self.shape), "use": dict(self.use), **numbers}


def under(kernel: str, use: Use, run: Run) -> Run:
    def launch() -> object:
        with tuned.override(kernel, use):
            return run()

    return launch


class Tuner:
    """Chooses once for each kernel and shape, while there is time."""

    def __init__(self, device: torch.device, seconds: float, say: Writer) -> None:
        self._device, self._seconds, self._say = device, seconds, say
        self._chosen: dict[Key, Choice | None] = {}
        self._spent = 0.0

    def choose(self, case: Case, stage: Callable[[str], None]) -> Choice | None:
        """None: what is launched anyway is as good, or there is no time left to know."""
        assert case.tune is not None
        key = case.tune.kernel, tuple(sorted(case.tune.shape.items()))
        if key not in self._chosen:
            if self._spent >= self._seconds:
                return None
            self._chosen[key] = self._choose(case, stage)
        return self._chosen[key]

    def _choose(self, case: Case, stage: Callable[[str], None]) -> Choice | None:
        assert case.tune is not None
        start = time.monotonic()
        deadline = start + self._seconds - self._spent
        found: list[tuple[float, Use]] = []
        failures = 0
        stage("tune default")
        default = self._quick(case)
        for use in case.tune.uses:
            if time.monotonic() > deadline:
                break
            stage(f"tune {dict(use)}")
            try:
                with tuned.override(case.tune.kernel, use):
                    found.append((self._quick(case), use))
            except Exception:  # does not compile, or needs more than there is
                if not alive(self._device):
                    raise
                failures += 1
        found.sort(key=lambda each: each[0])
        chosen = None
        for us, use in found[:3]:
            if us > default * (1 - LEAST_GAIN) and self._device.type == "cuda":
                break
            stage(f"tune {dict(use)} checked")
            chosen = self._faster_and_right(case, use)
            if chosen is not None:
                break
        seconds = time.monotonic() - start
        self._spent += seconds
        self._say(
            "tuned",
            kernel=case.tune.kernel,
            shape=dict(case.tune.shape),
            tried=len(found),
            failed=failures,
            seconds=seconds,
            chosen=None if chosen is None else chosen.said(),
        )
        return chosen

    def _quick(self, case: Case) -> float:
        for run in case.runs:
            run()
        synchronize(self._device)
        return timer(case.runs, self._device, case.graph, QUICK).read()

    def _faster_and_right(self, case: Case, use: Use) -> Choice | None:
        assert case.tune is not None
        with tuned.override(case.tune.kernel, use):
            mine = timer(case.runs, self._device, case.graph)
        default = timer(case.runs, self._device, case.graph)
        theirs, ours = [], []
        for _ in range(2):
            theirs.append(default.read())
            with tuned.override(case.tune.kernel, use):
                ours.append(mine.read())
        noise = max(max(theirs) - min(theirs), max(ours) - min(ours), LEAST_GAIN * min(theirs))
        if min(theirs) - max(ours) < noise and self._device.type == "cuda":
            return None
        with tuned.override(case.tune.kernel, use):
            if not case.wrong() <= case.tolerance:
                return None
        return Choice(case.tune.kernel, case.tune.shape, use, sum(ours) / 2, sum(theirs) / 2)
