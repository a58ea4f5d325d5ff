"""Who is let in: counted at the check, before a body is read or anything is tokenised, so that a burst cannot
pass together where each of it would have passed alone.

Pure. A ``Ticket`` is a request's place among those in hand: it goes with the request and each of its places
is given back once. Knows tenants, counts and estimates; knows no HTTP, no node and no clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from types import TracebackType

from pagewire.errors import Unavailable
from router.backlog import Backlog
from router.foresight import Foresight
from router.room import Capacity

BYTES_A_TOKEN = 4  # of a body that is yet to be read
RETRY_S = (1.0, 5 / 3)  # ``router.answers`` spreads it over up to three times as long


class Overloaded(Unavailable):
    """There is no room for anybody, or none in time."""

    code = "overloaded"


class OverShare(Unavailable):
    """There is no more room for this tenant."""

    code = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Requests in hand in all and of one tenant, of those how many may wait for their turn, and for how
    many seconds a first token may be expected to. A tenant without a name is everybody, and has no limit
    of its own."""

    inflight: int = 256
    of_tenant: int = 64
    queued: int = 192
    ttft_s: float = 60.0


class Ticket:
    """``places`` requests of ``tenant``, one a prompt. Unless it is ``keep``-ed before, leaving the
    ``with`` block gives all back."""

    __slots__ = ("_admission", "_foreseen", "_kept", "places", "tenant", "tokens")

    def __init__(self, admission: Admission, tenant: str, tokens: int, foreseen: float) -> None:
        self.tenant = tenant
        self._foreseen: float | None = foreseen  # seconds to the first token; None once that is there
        self.tokens = tokens  # estimated, of prompts that have not joined the queue
        self.places = 0
        self._admission = admission
        self._kept = False

    def widen(self, places: int) -> None:
        """It is for so many prompts. Raises Unavailable."""
        if places > self.places:
            self._admission.take(self, places - self.places)

    def keep(self) -> None:
        """Its requests have joined the queue: they give the places back, one by one."""
        self._kept = True
        self._admission.joined(self)

    def began(self, seconds: float) -> None:
        """The first token of one of its requests has come, so long after it did. The first one counts."""
        if self._foreseen is not None:
            self._admission.foresight[self.tenant].saw(self._foreseen, seconds)
            self._foreseen = None

    def leave(self) -> None:
        """One of its requests has ended."""
        self._admission.give(self, 1)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            self._admission.joined(self)
            self._admission.give(self, self.places)


class Admission:
    def __init__(self, limits: Limits, backlog: Backlog) -> None:
        self.inflight = 0
        # Of each tenant: they wait for different things. As many as there are keys.
        self.foresight: defaultdict[str, Foresight] = defaultdict(lambda: Foresight(limits.ttft_s))
        self._limits = limits
        self._backlog = backlog
        self._of: Counter[str] = Counter()
        self._coming: Counter[str] = Counter()  # tokens of tickets that have not joined the queue

    def admit(self, tenant: str, body_bytes: int, capacity: Capacity) -> Ticket:
        """A place for one request, now taken. Raises Unavailable."""
        if len(self._backlog) >= self._limits.queued:
            raise self._overloaded("too many requests are waiting", 0.0)
        tokens = 1 + body_bytes // BYTES_A_TOKEN
        wait = self._backlog.wait(tenant, tokens, self._coming, capacity)
        foreseen = wait + self._backlog.node_s(tokens)
        late = self.foresight[tenant].within(foreseen) - self._limits.ttft_s
        if wait and late > 0:
            raise self._overloaded("the answer would not begin in time", late)
        ticket = Ticket(self, tenant, tokens, foreseen)
        self.take(ticket, 1)
        self._coming[tenant] += ticket.tokens
        return ticket

    def take(self, ticket: Ticket, places: int) -> None:
        """So many more for ``ticket``, all or none. Raises Unavailable."""
        if self.inflight + places > self._limits.inflight:
            raise self._overloaded("too many requests are running", 0.0)
        if ticket.tenant and self._of[ticket.tenant] + places > self._limits.of_tenant:
            raise OverShare("too many requests of this key are running", status=429, retry_after=RETRY_S[0])
        ticket.places += places
        self.inflight += places
        self._of[ticket.tenant] += places

    def joined(self, ticket: Ticket) -> None:
        """Its tokens are known exactly from here on, and counted in the queue."""
        _less(self._coming, ticket.tenant, ticket.tokens)
        ticket.tokens = 0

    def give(self, ticket: Ticket, places: int) -> None:
        assert 0 <= places <= ticket.places
        ticket.places -= places
        self.inflight -= places
        _less(self._of, ticket.tenant, places)

    def _overloaded(self, why: str, late: float) -> Overloaded:
        return Overloaded(why, status=429, retry_after=min(max(late, RETRY_S[0]), RETRY_S[1]))


def _less(counts: Counter[str], name: str, amount: int) -> None:
    """Without a trace of those that have nothing left: tenants come and go."""
    counts[name] -= amount
    assert counts[name] >= 0
    if not counts[name]:
        del counts[name]
