"""Several routers before one fleet, in virtual time: each places by its own books, by the code that serves.

Real are Fleet, Placing (with its index, ledger and placement), Backlog and Capacities of each router, and the
messages they are told by; the nodes are ``thousand_nodes``. What nodes say arrives at once. Knows no socket.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from thousand_nodes import PAGE, SCALE, SEQS, Job, VirtualNode
from traces import Row

from pagewire.mailbox import BEAT_EVERY_S
from pagewire.messages import (
    DECODE,
    PREFILL,
    DecodeTarget,
    Epoch,
    NodeId,
    PagesChanged,
    PrefillRequest,
    RequestId,
)
from pagewire.page_chain import Labels, pack
from pagewire.sampling import SamplingParams
from router.actions import Open
from router.backlog import Backlog
from router.fleet import Fleet
from router.metrics import Metrics
from router.placement import Pair, Query, Rules
from router.placing import Placing
from router.room import Capacities, Size

SAMPLING = SamplingParams(max_tokens=1)
Route = Callable[[Row, int], int]  # a request and the number of its copy of the trace -> which router


class VirtualRouter:
    def __init__(self, name: str, nodes: Iterable[VirtualNode], disaggregate: str) -> None:
        self.fleet = Fleet(NodeId(name), Epoch("e"), "0.1.0")
        metrics = Metrics(self.fleet, lambda: 0, lambda: 0, lambda: 0)
        self.placing = Placing(self.fleet, lambda peer, wanted: None, Rules("prefix", disaggregate), metrics)
        self.backlog = Backlog()
        self.sums = Capacities(self.fleet)
        self.pairs: dict[RequestId, Pair] = {}
        self.jobs: dict[RequestId, Job] = {}
        for node in nodes:
            self.fleet.hello(0.0, node.peer, node.hello)
            self.placing.joined(0.0, node.peer)


@dataclass
class World:
    """``prefills`` and ``decodes`` nodes, ``routers`` routers. ``done`` are the jobs that have ended."""

    prefills: int
    decodes: int
    routers: int
    disaggregate: str = "auto"

    def __post_init__(self) -> None:
        nodes = [VirtualNode(f"prefill-{n}", PREFILL) for n in range(self.prefills)]
        nodes += [VirtualNode(f"decode-{n}", DECODE) for n in range(self.decodes)]
        self.nodes = {node.peer: node for node in nodes}
        self.all = [VirtualRouter(f"r{n}", nodes, self.disaggregate) for n in range(self.routers)]
        self.now = 0.0
        self.done: list[Job] = []
        self.events = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        dice = random.Random(1)
        for node in nodes:
            self._tell(node, [], [])
            self._at(dice.random() * BEAT_EVERY_S, lambda node=node: self._beat(node))  # type: ignore[misc]

    def play(self, jobs: Sequence[Job]) -> None:
        """Until each of ``jobs``, in the order of their coming, has ended."""
        for job in jobs:
            job.labels = list(Labels(job.tokens, "", PAGE))
        coming, wanted = iter(jobs), len(self.done) + len(jobs)
        job = next(coming, None)
        while len(self.done) < wanted:
            if job is not None and (not self._due or job.came <= self._due[0][0]):
                self.now = job.came
                self._arrive(job)
                job = next(coming, None)
            else:
                self.now, _, act = heappop(self._due)
                act()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heappush(self._due, (when, next(self._order), act))

    # --- what nodes say -------------------------------------------------------------------------------------

    def _beat(self, node: VirtualNode) -> None:
        beat = node.beat
        for router in self.all:
            router.fleet.beat(self.now, node.peer, beat)
        self._at(self.now + BEAT_EVERY_S, lambda: self._beat(node))

    def _tell(self, node: VirtualNode, come: list[bytes], gone: list[bytes]) -> None:
        message = PagesChanged(*node.peer, 1, node.sent, pack(come), pack(gone))
        node.sent += 1
        for router in self.all:
            router.placing.told(self.now, node.peer, message)

    # --- a request's way ------------------------------------------------------------------------------------

    def _arrive(self, job: Job) -> None:
        router = self.all[job.router]
        router.jobs[job.request] = job
        router.backlog.join(self.now, job.request, "", Size(len(job.tokens), 1, 1))
        self._send(router)

    def _send(self, router: VirtualRouter) -> None:
        began = time.process_time()
        while (request := router.backlog.next(self.now, router.sums.at(self.now))) is not None:
            job = router.jobs[request]
            query = Query(job.tokens, len(job.tokens) + 1, request=request)
            pair = router.placing.choose(self.now, query, frozenset())
            assert pair is not None
            target = DecodeTarget(*pair.decode, pair.address)
            tokens = len(job.tokens)
            message = PrefillRequest(request, 0, [0], job.tokens, tokens, SAMPLING, 0, "", 1000, target)
            router.placing.opened(self.now, Open(pair, query, message))
            router.pairs[request] = pair
            job.cost_s, began = time.process_time() - began, time.process_time()
            self._take(job, pair)

    def _take(self, job: Job, pair: Pair) -> None:
        job.decode, job.alone = pair.decode, pair.prefill == pair.decode
        node = self.nodes[pair.prefill]
        node.queue.append(job)
        if len(node.queue) == 1:
            self._read(node)

    def _read(self, node: VirtualNode) -> None:
        self._at(self.now + node.read_s(node.queue[0]), lambda: self._has_read(node))

    def _has_read(self, node: VirtualNode) -> None:
        job = node.queue.popleft()
        job.first = self.now
        router = self.all[job.router]
        router.backlog.read(self.now, job.request)
        self._tell(node, *node.holds(job.labels))
        assert job.decode is not None
        to = self.nodes[job.decode]
        self._at(self.now + (0.0 if job.alone else 0.005), lambda: self._land(to, job))
        if node.queue:
            self._read(node)
        self._send(router)

    def _land(self, node: VirtualNode, job: Job) -> None:
        if not job.alone:
            self._tell(node, *node.holds(job.labels))
        self.all[job.router].placing.handed(job.request, 0)
        node.landed.append(job)
        self._write(node)

    def _write(self, node: VirtualNode) -> None:
        while node.landed and node.writing < SEQS:
            job = node.landed.popleft()
            node.writing += 1
            self._at(self.now + node.write_s(job), lambda job=job: self._end(node, job))  # type: ignore[misc]

    def _end(self, node: VirtualNode, job: Job) -> None:
        node.writing -= 1
        router = self.all[job.router]
        router.placing.closed(job.request, 0, router.pairs.pop(job.request))
        router.backlog.leave(self.now, job.request)
        del router.jobs[job.request]
        self.done.append(job)
        self._write(node)
        self._send(router)

    @property
    def busiest(self) -> float:
        """What the prefill node that read most had to read, over the mean."""
        worked = [node.worked for node in self.nodes.values() if node.role == PREFILL]
        return max(worked) * len(worked) / sum(worked)


def jobs_of(rows: Sequence[Row], rate: float, copies: int, route: Route) -> list[Job]:
    """``copies`` of the trace side by side, so fast that ``rate`` requests come a second. Copies have nothing
    in common but the block that all prompts begin with."""
    dice = random.Random(2)
    span = rows[-1].at + 3.0
    scale = len(rows) * copies / rate / span
    numbered = [
        ((row.at + 3 * dice.random() + copy * span / copies) % span * scale, copy, row)
        for copy in range(copies)
        for row in rows
    ]
    jobs = []
    for number, (at, copy, row) in enumerate(sorted(numbered, key=lambda each: each[:2])):
        blocks = [block and copy * 1_000_000 + block for block in row.hash_ids]
        whole = -(-row.input_length // SCALE)
        tokens = [block for block in blocks for _ in range(PAGE)][:whole]
        jobs.append(Job(RequestId(f"{number:032x}"), at, tokens, row.output_length, route(row, copy)))
    return jobs
