"""Clients of several routers: what a load balancer and a client with retries do, in one process.

Knows URLs, requests and answers. A request goes to the routers in turn; one that cannot be reached, hangs up
before a byte of the answer, or says 503 is passed by, as any HTTP load balancer does; a stream that breaks
is a failure.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

TRIES = 40
PAUSE_S = 0.1
Request = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    number: int
    sent_at: float
    tokens: list[int] = field(default_factory=list)
    error: str = ""
    ttft_s: float = 0.0
    end_s: float = 0.0
    tries: int = 0
    worst_gap_s: float = 0.0


def requests(
    count: int, seed: int, answer: tuple[int, int] = (8, 48), prompt: tuple[int, int] = (8, 160)
) -> list[Request]:
    """Prompts of token ids, every third sampled, each with a seed: the tokens are what they are."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        tokens = [dice.randrange(1000, 40_000) for _ in range(dice.randrange(*prompt))]
        made.append(
            {
                "prompt": tokens,
                "max_tokens": dice.randrange(*answer),
                "seed": number,
                "temperature": 0.8 if number % 3 == 0 else 0.0,
                "ignore_eos": True,
            }
        )
    return made


class Clients:
    """``at_once`` requests in hand, or ``rate`` new ones a second (Poisson); all once, or for ``seconds``."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        at_once: int = 0,
        rate: float = 0.0,
        seconds: float = 0.0,
        key: str = "",
    ) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
        head = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(timeout=120, limits=limits, trust_env=False, headers=head)
        self._urls = itertools.cycle(urls)
        self._at_once, self._rate, self._seconds = at_once, rate, seconds
        self.outcomes: list[Outcome] = []

    async def run(self, bodies: Sequence[Request]) -> list[Outcome]:
        dice, tasks, end = random.Random(1), [], time.monotonic() + self._seconds
        places = asyncio.Semaphore(self._at_once or 10_000)
        numbers = itertools.cycle(range(len(bodies))) if self._seconds else iter(range(len(bodies)))
        async with self._http, asyncio.TaskGroup() as group:
            for number in numbers:
                if self._rate:
                    await asyncio.sleep(dice.expovariate(self._rate))
                if self._seconds and time.monotonic() > end:
                    break
                await places.acquire()
                task = group.create_task(self._ask(number, bodies[number]))
                task.add_done_callback(lambda _: places.release())
                tasks.append(task)
        return [task.result() for task in tasks]

    async def _ask(self, number: int, body: Request) -> Outcome:
        found = Outcome(number, time.monotonic())
        for url in itertools.islice(self._urls, TRIES):
            found.tries += 1
            if await self._try(url, body, found):
                break
            await asyncio.sleep(PAUSE_S)
        else:
            found.error = found.error or "no router took it"
        found.end_s = time.monotonic() - found.sent_at
        self.outcomes.append(found)
        return found

    async def _try(self, url: str, body: Request, found: Outcome) -> bool:
        """False if another router may be asked."""
        begun = False
        last = time.monotonic()
        try:
            asked = body | {"stream": True, "return_token_ids": True}
            async with self._http.stream("POST", f"{url}/v1/completions", json=asked) as reply:
                if reply.status_code == 503:
                    return False
                if reply.status_code != 200:
                    found.error = f"HTTP {reply.status_code}: {(await reply.aread()).decode()[:200]}"
                    return True
                async for line in reply.aiter_lines():
                    if line == "data: [DONE]":
                        return True
                    if not line.startswith("data: "):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        found.error = f"{event['error']['code']}: {event['error']['message']}"
                        return True
                    new = [token for choice in event["choices"] for token in choice.get("token_ids") or []]
                    now = time.monotonic()
                    if new and not begun:
                        begun, found.ttft_s = True, now - found.sent_at
                    elif new:
                        found.worst_gap_s = max(found.worst_gap_s, now - last)
                    last = now
                    found.tokens += new
        except httpx.TransportError as error:
            if not begun:
                return False
            found.error = f"the stream broke: {type(error).__name__}"
            return True
        found.error = "the stream ended without [DONE]"
        return True
