"""The router's admission and queue before make-believe nodes, in virtual time: hours of load in a second."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pagewire.errors import Unavailable
from pagewire.messages import RequestId
from router.admission import Admission, Limits, Ticket
from router.backlog import Backlog
from router.room import ANSWER, Capacity, Size

BATCH = 512
STEP_S = 0.01  # of the world


@dataclass(eq=False)
class Job:
    tenant: str
    size: Size
    came: float
    ticket: Ticket
    left: float = 0.0  # of the prompt
    first: float | None = None
    ends: float = 0.0


@dataclass
class Nodes:
    """One prefill node that reads ``rate`` tokens a second, half of them of the oldest prompt and else the
    shortest first, and a decode node with ``places`` that writes each answer with ``pace`` tokens a
    second."""

    rate: float = 600.0
    pace: float = 40.0
    places: int = 64
    reading: list[Job] = field(default_factory=list)
    landed: list[Job] = field(default_factory=list)
    writing: list[Job] = field(default_factory=list)

    def step(self, now: float) -> tuple[list[Job], list[Job]]:
        """Whose first token has come, and whose last."""
        tokens = self.rate * STEP_S
        shares = [(job, tokens / 2) for job in self.reading[:1]]
        shares += [(job, tokens) for job in sorted(self.reading, key=lambda job: job.left)]
        for job, most in shares:
            took = max(0.0, min(most, tokens, job.left))
            job.left -= took
            tokens -= took
        read = [job for job in self.reading if job.left <= 0]
        self.reading = [job for job in self.reading if job.left > 0]
        for job in read:
            job.first = now
        self.landed += read
        while self.landed and len(self.writing) < self.places:
            job = self.landed.pop(0)
            job.ends = now + job.size.answer / self.pace
            self.writing.append(job)
        over = [job for job in self.writing if now >= job.ends]
        self.writing = [job for job in self.writing if now < job.ends]
        return read, over


class Virtual:
    """``slo``: the target for the first token. Outcomes are in ``done`` and ``refused``."""

    def __init__(self, slo: float = 2.0, seed: int = 1, **nodes: float) -> None:
        self.now, self.slo = 0.0, slo
        self.dice = random.Random(seed)
        self.nodes = Nodes(**nodes)  # type: ignore[arg-type]
        self.backlog = Backlog()
        self.door = Admission(Limits(ttft_s=slo), self.backlog)
        self.capacity = Capacity(2 * BATCH, BATCH // 4, 100_000, self.nodes.places, 4.0 * BATCH)
        self.done: list[Job] = []
        self.refused: list[tuple[float, str]] = []
        self._jobs: dict[RequestId, Job] = {}
        self._count = 0

    def come(self, tenant: str = "", kind: tuple[int, int] | None = None) -> Job | None:
        """A request, of ``kind`` (tokens in, tokens out) or of the usual mix. None: it was refused."""
        prompt, answer = kind or self.dice.choice([(48, 16)] * 4 + [(256, 32)])
        try:
            ticket = self.door.admit(tenant, 6 * prompt, self.capacity)
        except Unavailable:
            self.refused.append((self.now, tenant))
            return None
        ticket.keep()
        size = Size(prompt, 1, min(answer, ANSWER))
        job = Job(tenant, size, self.now, ticket, float(prompt))
        self._count += 1
        request = RequestId(str(self._count))
        self._jobs[request] = job
        self.backlog.join(self.now, request, tenant, size)
        self._send()
        return job

    def run(self, seconds: float, load: Callable[[], None]) -> None:
        """Ask ``load`` at every step who comes."""
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            load()
            names = {id(job): request for request, job in self._jobs.items()}
            read, over = self.nodes.step(self.now)
            for job in read:
                self.backlog.read(self.now, names[id(job)])
                job.ticket.began(self.now - job.came)
            for job in over:
                self.backlog.leave(self.now, names[id(job)])
                job.ticket.leave()
                self.done.append(job)
                del self._jobs[names[id(job)]]
            self._send()

    def poisson(self, rates: dict[str, float]) -> Callable[[], None]:
        """So many requests a second of each tenant, whatever becomes of them."""

        def load() -> None:
            for tenant, rate in rates.items():
                due = rate * STEP_S
                while self.dice.random() < min(1.0, due):
                    self.come(tenant)
                    due -= 1.0

        return load

    def clients(self, count: int, tenant: str = "") -> Callable[[], None]:
        """So many, each with one request at a time; who is refused comes back in one to five seconds."""
        asked: list[Job | float | None] = [None] * count

        def load() -> None:
            for number, last in enumerate(asked):
                waits = isinstance(last, float) and self.now < last
                runs = isinstance(last, Job) and not (last.ends and self.now >= last.ends)
                if not waits and not runs:
                    asked[number] = self.come(tenant) or self.now + self.dice.uniform(1, 5)

        return load

    def good(self, since: float, tenant: str | None = None) -> int:
        """Of those that came since then and have been answered: whose first token was in time."""
        return sum(ttft <= self.slo for ttft in self.ttfts(since, tenant))

    def ttfts(self, since: float, tenant: str | None = None) -> list[float]:
        return [
            job.first - job.came
            for job in self.done
            if job.first is not None and job.came >= since and tenant in (None, job.tenant)
        ]

    def _send(self) -> None:
        while (request := self.backlog.next(self.now, self.capacity)) is not None:
            self.nodes.reading.append(self._jobs[request])
