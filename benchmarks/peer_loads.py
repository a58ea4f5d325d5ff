"""The loads that every system is put under: closed loop, streams beside long prompts, Poisson arrivals.

Knows a Client; knows neither which system answers nor what the figures are compared with.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import peer_figures
from peer_client import Answer, Client, PeerFailed
from peer_figures import Figures, Search, Slo
from peer_steps import prompt

T = TypeVar("T")
Say = Callable[[str], None]

STREAM_PROMPT = 256  # tokens
LONG_PROMPT, LONG_ANSWER = 2_048, 16
LONGEST = 2_800  # tokens of a stream that nobody waits for
DRAIN_S = 30.0  # for first tokens of long prompts after the window


async def warm_up(client: Client, seed: int) -> Figures:
    """Shapes of all sizes, so that nothing is compiled or allocated later. Raises PeerFailed."""
    pick = random.Random(seed)
    for prompts, tokens in ([256], 8), ([256] * 8, 8), ([LONG_PROMPT], 8):
        for answer in await _gather([client.complete(prompt(n, pick), tokens) for n in prompts]):
            if answer.error:
                raise PeerFailed(f"the server does not answer as it should: {answer.error}")
    return {}


async def serve(client: Client, concurrency: int, requests: int, seed: int, say: Say) -> Figures:
    """256 tokens in, 64 out, so many at a time."""
    pick, answers, began = random.Random(f"{seed} {concurrency}"), list[Answer](), time.perf_counter()
    prompts = [prompt(256, pick) for _ in range(requests)]

    async def worker() -> None:
        while prompts:
            answers.append(await client.complete(prompts.pop(), 64))
            say(f"{concurrency} at a time: request {len(answers)} of {requests}")

    await _gather([worker() for _ in range(concurrency)])
    figures = peer_figures.served(answers, time.perf_counter() - began)
    return figures | _other_prompts(answers, 256)


async def interference(client: Client, every: float, seconds: float, seed: int, say: Say) -> Figures:
    """Eight streams for so long, and a long prompt ``every`` so many seconds, the first at once; 0: none."""
    pick = random.Random(f"{seed} {every}")
    streams: list[Answer] = []
    long: list[Answer] = []
    prompts = [prompt(STREAM_PROMPT, pick) for _ in range(8)]
    tasks = [asyncio.create_task(client.complete(p, LONGEST, into=streams)) for p in prompts]
    try:
        await until(lambda: len(streams) == 8 and all(len(a.moments) > 4 or a.error for a in streams))
        start = time.perf_counter()
        due = [start + i * every for i in range(math.ceil(seconds / every))] if every else []
        for moment in due:
            await _until_time(moment)
            say(f"8 streams, long prompt {len(long) + 1} of {len(due)}")
            words = prompt(LONG_PROMPT, pick)
            tasks.append(asyncio.create_task(client.complete(words, LONG_ANSWER, moment, long)))
            await asyncio.sleep(0)
        await _until_time(end := start + seconds)
        figures = peer_figures.streams(streams, start, end)
        if long:
            say("8 streams, waiting for the last long prompts")
            await until(lambda: all(a.moments or a.error for a in long), DRAIN_S)
            figures |= peer_figures.first_tokens(long, time.perf_counter())
        return figures
    finally:
        await _cancel(tasks)


async def rate(
    client: Client, search: Search, slo: Slo, seconds: float, least: int, seed: int, say: Say
) -> Figures:
    """512 tokens in, 64 out, Poisson: the largest rate of requests at which ``slo`` is kept."""
    tried: Figures = {}
    while (now := search.next()) is not None:
        requests = max(least, round(now * seconds))
        say(f"{now:.2f} requests/s, {requests} of them")
        kept = await _attained(client, now, requests, slo, seed)
        tried[f"kept_at_{now:.3f}"] = kept
        search.tell(now, kept >= slo.share)
        await client.complete(prompt(32, random.Random(seed)), 2)  # what was given up has ended before
        await asyncio.sleep(1.0)
    return {"requests_per_s": search.low} | tried


async def _attained(client: Client, rate: float, requests: int, slo: Slo, seed: int) -> float:
    """The share that met ``slo``; given up, with what it can still become, when too many have missed."""
    pick = random.Random(f"{seed} {rate}")  # other prompts at each rate: no cache may know them
    answers, start = list[Answer](), time.perf_counter() + 0.1
    tasks: list[asyncio.Task[Answer]] = []

    def missed() -> int:
        now = time.perf_counter()
        return sum(slo.missed(a, now) for a in answers)

    async def offer() -> None:
        for at in peer_figures.arrivals(requests, rate, seed):
            await _until_time(start + at)
            words = prompt(512, pick)
            tasks.append(asyncio.create_task(client.complete(words, 64, start + at, answers)))
            await asyncio.sleep(0)

    offering = asyncio.create_task(offer())
    try:
        await until(
            lambda: missed() > slo.may_miss(requests) or (offering.done() and all(t.done() for t in tasks))
        )
        return 1 - missed() / requests if missed() > slo.may_miss(requests) else _share(answers, slo)
    finally:
        await _cancel([offering, *tasks])


def _share(answers: list[Answer], slo: Slo) -> float:
    return sum(slo.met(a) for a in answers) / len(answers)


def _other_prompts(answers: list[Answer], tokens: int) -> Figures:
    """How many prompts the server says were of another length: then it read something else."""
    return {"other_prompts": float(sum(a.prompt_tokens not in (None, tokens) for a in answers))}


async def until(true: Callable[[], bool], most: float = math.inf) -> None:
    end = time.perf_counter() + most
    while not true() and time.perf_counter() < end:
        await asyncio.sleep(0.05)


async def _until_time(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))


async def _gather(all_of: list[Coroutine[Any, Any, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in all_of]
    return [task.result() for task in tasks]


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    """Hangs up: a server sees the end of the line and gives the request up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
