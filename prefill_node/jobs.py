"""What a prefill node holds for one attempt, from its arrival to the end of its handoff.

Knows states and times; decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from kv_transfer import TransferId
from pagewire.engine.pages import PageLease
from pagewire.engine.sequence import Sequence
from pagewire.messages import Handoff, NodeId, PrefillRequest
from pagewire.node_role import Key
from pagewire.timeline import Stopwatch


@dataclass(slots=True, eq=False)
class Job:
    """One attempt. It is queued, then reserving, then computing, then handing over; ``transfer`` and ``seq``
    say which. After the engine is done with it, the job owns the lease until the decode node has adopted the
    pages."""

    router: NodeId
    request: PrefillRequest
    taken: float  # on this node's clock, seconds, as is the deadline
    deadline: float
    watch: Stopwatch
    transfer: TransferId | None = None
    seq: Sequence | None = None
    lease: PageLease | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def taken_in(cls, router: NodeId, request: PrefillRequest, now: float) -> Job:
        return cls(router, request, now, now + request.deadline_ms / 1000, Stopwatch(now))

    @property
    def key(self) -> Key:
        return self.request.request, self.request.attempt

    @property
    def queued(self) -> bool:
        """Nothing has been done for it yet."""
        return self.transfer is None and self.seq is None and self.lease is None

    @property
    def reserving(self) -> bool:
        """Asked for room on the decode side, and not yet answered."""
        return self.transfer is not None and self.seq is None and self.lease is None

    @property
    def hands_over(self) -> bool:
        """False if the first token is also the last one that may be sampled."""
        params = self.request.sampling
        done = len(self.request.tokens) - self.request.num_prompt
        return params.max_tokens is None or done + 1 < params.max_tokens

    def handoff(self, now: float) -> Handoff:
        """What the decode node must know to go on."""
        return Handoff(self.router, replace(self.request, deadline_ms=int((self.deadline - now) * 1000)))


class Jobs:
    """All jobs of a node, by (request, attempt) and by transfer."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Job] = {}
        self._by_transfer: dict[TransferId, Job] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._by_key.values()))

    def __contains__(self, key: Key) -> bool:
        return key in self._by_key

    def add(self, job: Job) -> None:
        self._by_key[job.key] = job

    def bind(self, job: Job, transfer: TransferId) -> None:
        job.transfer = transfer
        self._by_transfer[transfer] = job

    def get(self, key: Key) -> Job | None:
        return self._by_key.get(key)

    def of(self, seq: Sequence) -> Job:
        return self._by_key[seq.request, seq.attempt]

    def moving(self, transfer: TransferId) -> Job | None:
        return self._by_transfer.get(transfer)

    def remove(self, job: Job) -> None:
        del self._by_key[job.key]
        if job.transfer is not None:
            self._by_transfer.pop(job.transfer, None)
