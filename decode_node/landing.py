"""Prompts whose KV is on its way: where they wait for pages, and what they hold until they are admitted.

Waiting for pages happens here, before the engine knows of the request. Knows reservations and pages; knows no
socket and no tensor. A reservation takes all pages of its prompt at once or none, so that two of them can
never wait for each other; and it leaves room for what is running to grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kv_transfer import TransferId
from pagewire.engine.engine import Engine
from pagewire.engine.pages import PageLease
from pagewire.engine.sequence import Sequence, sequence_of
from pagewire.messages import Handoff, NodeId
from pagewire.node_role import Key
from pagewire.pledges import Pledges
from pagewire.priority import rank
from pagewire.timeline import Stopwatch


@dataclass(slots=True, eq=False)
class Arrival:
    """A request on its way. The lowest ``rank`` gets its pages first. ``lease`` is None while it waits for
    pages; ``generations`` are those of its pages when it got them. ``cut`` choices will not go on.
    """

    transfer: TransferId
    router: NodeId
    seq: Sequence
    rank: float
    deadline: float
    watch: Stopwatch
    lease: PageLease | None = None
    generations: list[int] | None = None
    cut: set[int] = field(default_factory=set)

    @property
    def key(self) -> Key:
        return self.seq.request, self.seq.attempt


class Landing:
    def __init__(self, engine: Engine, pledges: Pledges | None = None) -> None:
        self._engine = engine
        self._pledges = pledges
        self._arrivals: dict[TransferId, Arrival] = {}  # in the order of their coming

    def __len__(self) -> int:
        return len(self._arrivals)

    def __iter__(self) -> Iterator[Arrival]:
        return iter(list(self._arrivals.values()))

    @property
    def num_waiting(self) -> int:
        return sum(arrival.lease is None for arrival in self._arrivals.values())

    def expect(self, transfer: TransferId, handoff: Handoff, now: float) -> None:
        """Take a reservation. Raises RequestError if it can never run on this node."""
        request = handoff.request
        seq = sequence_of(request, self._engine.config.max_model_len)
        self._engine.check(seq)
        deadline = now + request.deadline_ms / 1000
        self._arrivals[transfer] = Arrival(
            transfer, handoff.router, seq, rank(now, request.priority), deadline, Stopwatch(now)
        )

    def grant(self) -> Iterator[Arrival]:
        """First come, first served, but for priorities: the reservations that have their pages now."""
        waiting = [arrival for arrival in self if arrival.lease is None]
        for arrival in sorted(waiting, key=lambda arrival: arrival.rank):
            if not self._lease(arrival):
                return
            yield arrival

    def get(self, transfer: TransferId) -> Arrival | None:
        return self._arrivals.get(transfer)

    def take(self, transfer: TransferId) -> Arrival | None:
        """Remove an arrival; its lease goes with it to the caller."""
        return self._arrivals.pop(transfer, None)

    def intact(self, arrival: Arrival) -> bool:
        """True if its pages are what it was given, and nobody has had them meanwhile."""
        assert arrival.lease is not None
        return arrival.generations == self._engine.pool.generations(arrival.lease) is not None

    def _lease(self, arrival: Arrival) -> bool:
        """Find the prefix that is here already and pages for the rest."""
        engine, seq = self._engine, arrival.seq
        pool, scheduler = engine.pool, engine.scheduler
        if scheduler.waiting:  # something was preempted, and comes first
            return False
        hit = engine.cache.match(seq.tokens, seq.cache_salt, seq.page_hashes)
        missing = pool.pages_for(len(seq.tokens)) - len(hit)
        pledged = 0 if self._pledges is None else self._pledges.total
        # What is running keeps room to grow.
        if missing + pool.reclaimable(hit) + pledged > scheduler.spare_pages:
            return False
        arrival.lease = pool.lease()
        pool.share(arrival.lease, hit)
        pool.grow(arrival.lease, missing)
        seq.prefix_hit = len(hit) * pool.page_size
        arrival.generations = pool.generations(arrival.lease)
        engine.cache.count(len(seq.tokens), seq.prefix_hit)
        return True
