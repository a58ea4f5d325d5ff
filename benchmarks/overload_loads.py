"""Loads for a server that is to stay calm: closed loop, open loop, and several keys at once.

Knows a Client and arrival times; knows no server by name and judges nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from overload_client import Client, Outcome, body

DRAIN_S = 30.0  # for what is in hand when a load ends


class Kind(NamedTuple):
    """Of requests: tokens in, tokens out, and how many of a hundred are like that."""

    prompt: int
    answer: int
    share: int


MIX = (Kind(48, 16, 80), Kind(256, 32, 20))


@dataclass(slots=True)
class Load:
    """What came of one load. ``late``: how much after they were due requests were sent, in seconds."""

    outcomes: list[Outcome]
    seconds: float
    late: list[float]
    client_cpu: float

    def goodput(self, slo: float, key: str | None = None, costs: Sequence[float] = (1.0, 1.0)) -> float:
        """Good requests a second, or with ``costs`` what they are worth: who is refused changes the mix, and
        a long one is as much work as several short ones."""
        mine = [o for o in self.outcomes if key is None or o.key == key]
        return sum(costs[o.kind] for o in mine if o.good(slo)) / self.seconds

    def offered(self, key: str | None = None) -> float:
        return sum(key is None or o.key == key for o in self.outcomes) / self.seconds

    @property
    def refused(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.status in (429, 503)]

    @property
    def admitted(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.status not in (0, 429, 503)]

    @property
    def broken(self) -> list[Outcome]:
        """Neither answered nor properly refused."""
        return [o for o in self.outcomes if not o.whole and (o.status not in (429, 503) or not o.retry_after)]


class Loads:
    """``seed`` decides prompts and arrivals."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client = client
        self._dice = random.Random(seed)
        # Made beforehand: writing a prompt of 600 tokens costs more than sending it.
        self._bodies = [[self._body(kind) for _ in range(400)] for kind in MIX]

    def _body(self, kind: Kind) -> bytes:
        return body(kind.prompt, kind.answer, self._dice)

    async def _ask(self, key: str, due: float | None = None, kind: int | None = None) -> Outcome:
        if kind is None:
            (kind,) = self._dice.choices(range(len(MIX)), [kind.share for kind in MIX])
        outcome = await self._client.ask(self._dice.choice(self._bodies[kind]), key, due)
        outcome.kind = kind
        return outcome

    async def closed(self, clients: int, seconds: float, key: str, kind: int | None = None) -> Load:
        """So many clients, each with one request at a time, of the mix or all of one ``kind``; who is refused
        comes back when it was told to."""
        outcomes: list[Outcome] = []
        end = time.perf_counter() + seconds

        async def client(number: int) -> None:
            await asyncio.sleep(number * 0.01)
            while time.perf_counter() < end:
                outcome = await self._ask(key, kind=kind)
                outcomes.append(outcome)
                if outcome.retry_after:
                    await asyncio.sleep(min(outcome.retry_after, max(0.0, end - time.perf_counter())))

        return await self._run([client(number) for number in range(clients)], outcomes, seconds)

    async def open(self, rates: dict[str, float], seconds: float) -> Load:
        """So many requests a second with each key, at random times, whatever becomes of them."""
        outcomes: list[Outcome] = []
        late: list[float] = []
        start = time.perf_counter()

        async def one(key: str, due: float) -> None:
            late.append(time.perf_counter() - due)
            outcomes.append(await self._ask(key, due))

        async def arrivals(key: str, rate: float) -> None:
            due = start
            async with asyncio.TaskGroup() as tasks:
                while (due := due + self._dice.expovariate(rate)) < start + seconds:
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    tasks.create_task(one(key, due))

        load = await self._run([arrivals(key, rate) for key, rate in rates.items()], outcomes, seconds)
        load.late = late
        return load

    async def _run(self, work: list, outcomes: list[Outcome], seconds: float) -> Load:
        """What ended after the window counts as far as it was good: it began within the window."""
        cpu = time.process_time()
        await asyncio.wait_for(asyncio.gather(*work), seconds + DRAIN_S)
        return Load(outcomes, seconds, [], (time.process_time() - cpu) / seconds)
