"""Requests that were admitted and wait for their turn: queue, room on the nodes, and how fast it goes.

Pure: ``(now, event)`` in, the next request out. Knows ids and sizes; knows no message, no text and no task.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from pagewire.messages import RequestId
from router.drain import Drain
from router.fair_queue import FairQueue
from router.room import Capacity, Room, Size

AHEAD_S = 0.25  # of reading that prefill nodes have in hand: more would only wait there instead of here
EARLY_S = 0.5  # that a longer prompt goes before shorter ones, at most, for the time that reading it takes
SLEPT_S = 2.0  # between two events or looks at the time
SMOOTH = 0.1  # weight of the newest request in how much longer nodes take than foreseen


class _Sent(NamedTuple):
    at: float
    nominal_s: float  # that reading it takes, as nodes are built
    foreseen_s: float


class Backlog:
    def __init__(self) -> None:
        self.queue = FairQueue()
        self.drain = Drain()  # of what waits
        self._drains: defaultdict[str, Drain] = defaultdict(Drain)  # the same, of each tenant
        self.reading = Drain()  # of prompts under way
        self._rate = math.inf  # tokens of prompts that nodes read in a second
        self._slower = 0.0  # times what is foreseen that nodes took to a first token, lately
        self._room = Room()
        self._waiting: dict[RequestId, tuple[float, Size]] = {}  # since when
        self._sent: dict[RequestId, _Sent] = {}
        self._now: float | None = None

    def __len__(self) -> int:
        return len(self.queue)

    @property
    def prompts(self) -> int:
        """Tokens of the prompts that wait."""
        return sum(size.prompt for _, size in self._waiting.values())

    def join(self, now: float, request: RequestId, tenant: str, size: Size, priority: int = 0) -> None:
        self._pass(now)
        self._waiting[request] = now, size
        self.queue.push(now - self._early_s(size.prompt), request, tenant, size.tokens, priority)

    def next(self, now: float, capacity: Capacity | None) -> RequestId | None:
        """Whoever may go to the nodes now. Without a decode node everybody may: whoever has no node knows how
        to wait for one, and for how long."""
        self._pass(now)
        head = self.queue.head()
        if head is None:
            return None
        since, size = self._waiting[head.request]
        if capacity is not None:
            self._rate = self.reading.rate(capacity.nominal)
            if not self._room.fits(capacity, size, AHEAD_S * self._rate):
                return None
        self.queue.pop()
        del self._waiting[head.request]
        if capacity is not None:
            self._room.enter(head.request, capacity, size)
            if now > since:  # else it did not have to wait, and tells nothing
                self.drain.took(head.cost / capacity.nominal)
                self._drains[head.tenant].took(head.cost / capacity.nominal)
            foreseen = AHEAD_S + size.prompt / self._rate
            self._sent[head.request] = _Sent(now, size.prompt / capacity.nominal, foreseen)
        return head.request

    def read(self, now: float, request: RequestId) -> None:
        """The first token of ``request`` has come."""
        self._pass(now)
        if request in self._sent:
            sent = self._sent.pop(request)
            self._slower += SMOOTH * ((now - sent.at) / sent.foreseen_s - self._slower)
            self.reading.took(sent.nominal_s)
        self._room.read(request)

    def leave(self, now: float, request: RequestId) -> None:
        """It is over, wherever it was."""
        self._pass(now)
        self.queue.remove(request)
        self._room.leave(request)
        self._sent.pop(request, None)
        self._waiting.pop(request, None)

    def wait(self, tenant: str, cost: int, coming: Mapping[str, int], capacity: Capacity) -> float:
        """Seconds that a request of ``tenant`` would wait here if it came now; 0 if that tenant has none.

        ``coming`` tokens, by tenant, are about to join. Of another tenant no more goes before it than its own
        tenant has, and it, which costs so much; and what others send meanwhile shows in how fast its own
        tenant's were taken lately.
        """
        tokens = self.queue.tokens()
        mine = tokens.pop(tenant, 0) + coming.get(tenant, 0)
        if not mine:
            return 0.0
        others = (tokens.keys() | coming.keys()) - {tenant}
        before = sum(min(mine + cost, tokens.get(name, 0) + coming.get(name, 0)) for name in others)
        alone = mine / self._drains[tenant].rate(capacity.nominal)
        return max(alone, (mine + before) / self.drain.rate(capacity.nominal))

    def node_s(self, prompt: int) -> float:
        """Seconds from leaving the queue to the first token of a prompt of so many tokens, as things go; less
        those that it goes before shorter ones."""
        return self._slower * (AHEAD_S + prompt / self._rate) - self._early_s(prompt)

    def _early_s(self, prompt: int) -> float:
        return min(EARLY_S, self._slower * prompt / self._rate)

    def _pass(self, now: float) -> None:
        """Called often while something waits; when it was not, this process stood still, and what the nodes
        did meanwhile has yet to be read: that time tells nothing of them.
        """
        seconds, self._now = (0.0 if self._now is None else now - self._now), now
        if seconds > SLEPT_S:
            return
        if seconds > 0 and self.queue:
            self.drain.passed(seconds)
            for tenant in self.queue.tenants:
                self._drains[tenant].passed(seconds)
        if seconds > 0 and self._room.prompts:
            self.reading.passed(seconds)
