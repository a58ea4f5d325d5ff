"""Which of the prompts that wait here asks for room on the decode side next.

Pure. Short ones first, urgent ones first, and whoever has waited long enough before both: a prompt counts as
if it had come later by about the time that reading it takes, so it is passed only by those that come within
that time. Knows jobs and token counts; knows no engine and no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pagewire.priority import rank
from prefill_node.jobs import Job

STEPS_A_S = 4.0  # full ones, roughly
BATCHES = 2  # that are asked for before they can be computed
LONG_PART = 2  # a prompt counts for no more than this part of a batch, so that short ones have room beside it


def due(jobs: Iterable[Job], computing: Iterable[int], batch: int) -> Iterator[Job]:
    """Those that should ask now, in order. ``computing`` are the tokens left of each prompt in the engine.

    About one batch ahead of the computation, and of prompts that are longer than a batch only half as much:
    each holds pages on the decode side while it waits. Each decode node is asked for so much: one that has no
    room holds up nobody else.
    """
    jobs = list(jobs)
    most = max(1, batch // LONG_PART)
    ahead: Counter[str] = Counter()
    for job in jobs:
        if job.reserving:
            ahead[job.request.decode.address] += min(most, len(job.request.tokens))
    before = sum(min(most, tokens) for tokens in computing)
    for job in sorted((job for job in jobs if job.queued), key=lambda job: _rank(job, batch)):
        address, tokens = job.request.decode.address, len(job.request.tokens)
        if before + ahead[address] < (BATCHES * batch if tokens <= batch else batch):
            ahead[address] += min(most, tokens)
            yield job


def _rank(job: Job, batch: int) -> float:
    return rank(job.taken, job.request.priority) + len(job.request.tokens) / (STEPS_A_S * batch)
