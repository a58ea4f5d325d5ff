"""Requests against an estate while something is done to it, and what became of them beside the oracle.

Knows clients and answers; knows no fault.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from clients import Clients, Outcome, Request

from pagewire import LLM, SamplingParams


def oracle(model: str, bodies: Sequence[Request]) -> list[list[int]]:
    """The tokens of each, computed in this process by the same engine without a wire."""
    llm = LLM(model, threads=2, max_num_seqs=32)
    params = [
        SamplingParams(
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            seed=body["seed"],
            ignore_eos=True,
        )
        for body in bodies
    ]
    outputs = llm.generate([body["prompt"] for body in bodies], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@dataclass(slots=True)
class Told:
    """What became of a load."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error]

    def wrong(self, expected: Sequence[Sequence[int]]) -> int:
        """Of those that were answered, how many with other tokens."""
        return sum(
            outcome.tokens != list(expected[outcome.number]) for outcome in self.outcomes if not outcome.error
        )


@contextmanager
def running(clients: Clients, bodies: Sequence[Request]) -> Iterator[Told]:
    """The load runs beside the body; leaving waits for its end."""
    told, began = Told(), time.monotonic()

    def run() -> None:
        told.outcomes = asyncio.run(clients.run(bodies))
        told.seconds = time.monotonic() - began

    thread = threading.Thread(target=run, name="load")
    thread.start()
    try:
        yield told
    finally:
        thread.join()


def all_of(clients: Clients, bodies: Sequence[Request]) -> Told:
    with running(clients, bodies) as told:
        pass
    return told


def peak_rate(make: Callable[[int], Clients], bodies: Sequence[Request], at_once: int = 24) -> float:
    """Requests a second, as fast as they go."""
    told = all_of(make(at_once), bodies)
    assert not told.failed, told.failed[:3]
    return len(bodies) / told.seconds
