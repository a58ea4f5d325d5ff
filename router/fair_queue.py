"""Whose turn it is: requests that wait, shared out fairly among tenants.

Pure. Among tenants, deficit round robin in tokens (Shreedhar and Varghese 1995): each in turn may spend a
quantum, and what it could not spend on its next request stays its own. Within a tenant, the lowest rank
first: a step of ``priority`` is worth ``AGE_S`` seconds of waiting, so whoever waits long enough goes before
any newcomer, and nobody gets ahead of another tenant by calling itself urgent. Knows requests as ids with a
cost; knows no node and no clock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from pagewire.messages import RequestId
from pagewire.priority import rank

QUANTUM = 256  # tokens


class Entry(NamedTuple):
    """``cost`` in tokens, at least 1. Entries of a tenant sort by rank, then in the order of their coming."""

    rank: float
    number: int
    request: RequestId
    tenant: str
    cost: int


@dataclass(slots=True, eq=False)
class _Tenant:
    entries: list[Entry] = field(default_factory=list)
    tokens: int = 0
    deficit: int = 0


class FairQueue:
    def __init__(self, quantum: int = QUANTUM) -> None:
        assert quantum > 0
        self._quantum = quantum
        self._tenants: dict[str, _Tenant] = {}  # those that have something waiting
        self._ring: deque[str] = deque()  # the same, the one whose turn it is in front
        self._begun = False  # the one in front has had the quantum of this turn
        self._entries: dict[RequestId, Entry] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._entries

    @property
    def tenants(self) -> Collection[str]:
        """Those that have something waiting."""
        return self._tenants.keys()

    def tokens(self) -> dict[str, int]:
        """What waits, by tenant."""
        return {name: tenant.tokens for name, tenant in self._tenants.items()}

    def push(self, now: float, request: RequestId, tenant: str, cost: int, priority: int = 0) -> None:
        assert cost > 0
        assert request not in self._entries
        self._count += 1
        entry = Entry(rank(now, priority), self._count, request, tenant, cost)
        self._entries[request] = entry
        if tenant not in self._tenants:
            self._tenants[tenant] = _Tenant()
            self._ring.append(tenant)
        queue = self._tenants[tenant]
        insort(queue.entries, entry)
        queue.tokens += cost

    def head(self) -> Entry | None:
        """Who is next. Stays the same until it is popped or removed, or somebody of its tenant ranks
        lower."""
        while self._ring:
            tenant = self._tenants[self._ring[0]]
            if not self._begun:
                tenant.deficit += self._quantum
                self._begun = True
            if tenant.entries[0].cost <= tenant.deficit:
                return tenant.entries[0]
            self._ring.rotate(-1)
            self._begun = False
        return None

    def pop(self) -> Entry:
        """Take the head and charge its tenant."""
        entry = self.head()
        assert entry is not None
        self._tenants[entry.tenant].deficit -= entry.cost
        self.remove(entry.request)
        return entry

    def remove(self, request: RequestId) -> bool:
        """Take ``request`` out wherever it stands, at no charge. False if it does not wait."""
        entry = self._entries.pop(request, None)
        if entry is None:
            return False
        tenant = self._tenants[entry.tenant]
        del tenant.entries[bisect_left(tenant.entries, entry)]
        tenant.tokens -= entry.cost
        if not tenant.entries:  # what is left of its turn is not saved up
            self._begun = self._begun and self._ring[0] != entry.tenant
            del self._tenants[entry.tenant]
            self._ring.remove(entry.tenant)
        return True
