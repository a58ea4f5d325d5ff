"""Offline rates of an engine that is stepped by hand: prompts read, and tokens written at batch 1, 8 and 32.

Knows an engine as two verbs; knows none by name. It runs in the peer's own Python, so it asks for nothing
beyond the standard library.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Protocol

PROMPT = 256  # tokens
PROMPTS = 8  # read at once
BATCHES = (1, 8, 32)
STEPS = 32  # of decoding, in one measurement
_AHEAD = 64  # tokens that the first sequences may have before the last one has its first
_TOKENS = range(1_000, 30_000)  # in every vocabulary of today, and none of them special


class Stepped(Protocol):
    def add(self, prompt: list[int], tokens: int) -> None:
        """Queue a prompt; greedy, and no end before so many ``tokens``."""

    def step(self) -> list[int]:
        """Compute; how many tokens each sequence has now, in the order in which they were added."""

    def clear(self) -> None:
        """Forget all sequences."""


def prompt(tokens: int, pick: random.Random) -> list[int]:
    """Random ids: no two prompts share a prefix."""
    return pick.choices(_TOKENS, k=tokens)


def rates(engine: Stepped, seed: int) -> dict[str, object]:
    """``{"prefill": tokens/s, "decode": {"1": tokens/s, ...}}``, after a round that is not counted."""
    pick = random.Random(seed)
    _prefill(engine, pick)
    return {
        "prefill": _prefill(engine, pick),
        "decode": {str(batch): _decode(engine, batch, pick) for batch in BATCHES},
    }


def _prefill(engine: Stepped, pick: random.Random) -> float:
    _add(engine, PROMPTS, 1, pick)
    began = time.perf_counter()
    for counts in _steps(engine):
        if len(counts) == PROMPTS and min(counts) >= 1:
            break
    seconds = time.perf_counter() - began
    engine.clear()
    return PROMPTS * PROMPT / seconds


def _decode(engine: Stepped, batch: int, pick: random.Random) -> float:
    _add(engine, batch, STEPS + _AHEAD, pick)
    steps = _steps(engine)
    before = next(sum(counts) for counts in steps if len(counts) == batch and min(counts) >= 1)
    began = time.perf_counter()
    after = next(sum(counts) for counts in steps if sum(counts) >= before + batch * STEPS)
    seconds = time.perf_counter() - began
    engine.clear()
    return (after - before) / seconds


def _add(engine: Stepped, count: int, tokens: int, pick: random.Random) -> None:
    for _ in range(count):
        engine.add(prompt(PROMPT, pick), tokens)


def _steps(engine: Stepped) -> Iterator[list[int]]:
    while True:
        yield engine.step()
