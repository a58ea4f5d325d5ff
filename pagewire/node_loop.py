"""A node's loop: take -> advance -> compute -> reply -> report.

Knows the order in which a node's roles have their say around each step of the one engine that they share;
what they do is theirs. A node's current role says what it offers to routers, not what it can do: one that has
both goes on with what it has in hand, and takes whatever it is sent.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping

from pagewire.engine.engine import Engine, StepOutput
from pagewire.engine.sequence import Sequence
from pagewire.mailbox import RouterLost
from pagewire.messages import (
    DECODE,
    PREFILL,
    Cancel,
    Hello,
    Load,
    NodeId,
    PagesWanted,
    PrefillRequest,
    TakeRole,
)
from pagewire.node_role import Desk, MakeRole, Role
from pagewire.page_feed import PageFeed
from pagewire.replies import REPORT_EVERY_S, Outbox

log = logging.getLogger("pagewire.node")


class NodeLoop:
    """``turn`` is one round. ``roles`` by name; ``clock`` gives monotonic seconds."""

    def __init__(
        self,
        hello: Hello,
        engine: Engine,
        outbox: Outbox,
        clock: Callable[[], float],
        roles: Mapping[str, MakeRole],
    ) -> None:
        self._desk = Desk.of(hello, engine, outbox, clock, both=len(roles) > 1)
        self._roles: dict[str, Role] = {name: make(self._desk) for name, make in roles.items()}
        self._pages = PageFeed(hello, engine.pool, outbox.send)
        self._report_at = 0.0
        self._parts: list[tuple[Role, int, StepOutput]] = []  # of the step under way: whose, and how often

    def turn(self) -> bool:
        """One round. False if nothing was computed: the caller may sleep until something arrives."""
        desk = self._desk
        now = desk.clock()
        for router, message in desk.outbox.drain():
            self._receive(router, message, now)
        for role in self._roles.values():
            role.advance(now)
        began = desk.clock()
        out = desk.engine.step(self._watch, math.gcd(*(role.looks for role in self._roles.values())))
        desk.pace.step(out.computed, (desk.clock() - began) * 1000)
        for role, part in self._divided(out):
            role.reply(part, now)
        desk.replies.flush(desk.outbox)
        self._report(now, busy=bool(out.computed))
        return out.worked

    def due_in(self, now: float) -> float:
        """Seconds until the next deadline of a request that is here; infinite if there is none."""
        due = min((each for role in self._roles.values() for each in role.deadlines()), default=math.inf)
        return max(0.0, due - now)

    @property
    def idle(self) -> bool:
        """True if nothing is in hand, neither here nor on its way to another node."""
        return self.due_in(0.0) == math.inf and not self._desk.engine.busy

    def load(self) -> Load:
        engine, shares = self._desk.engine, [role.share() for role in self._roles.values()]
        accounts, scheduler = engine.accounts(), engine.scheduler
        gauges: Counter[str] = Counter()
        for share in shares:
            gauges.update(share.gauges)
        return Load(
            waiting=scheduler.num_waiting + sum(share.waiting for share in shares),
            running=scheduler.num_running,
            queued_tokens=scheduler.queued_tokens + sum(share.queued_tokens for share in shares),
            pages_free=accounts.free + accounts.cached,
            pages_total=accounts.total,
            transfers=sum(share.transfers for share in shares),
            steps=engine.steps,
            gauges=dict(gauges) | engine.gauges() | self._desk.pace.gauges(),
        )

    def fail_all(self, code: str, message: str) -> None:
        """Give every request back to its router, to be done elsewhere: this node is about to stop."""
        for role in self._roles.values():
            role.fail_all(code, message)

    # --- messages -------------------------------------------------------------------------------------------

    def _receive(self, router: NodeId, message: object, now: float) -> None:
        match message:
            case PrefillRequest(request, attempt):
                if self._desk.attempts.begin(request, attempt):
                    self._reader(message).take(router, message, now)
            case Cancel():
                for role in self._roles.values():
                    role.cancel(message)
            case PagesWanted():
                self._pages.wanted(router, message)
            case TakeRole(role=name):
                self._become(router, name)
            case RouterLost(lost):
                self._pages.lost(lost)
                for role in self._roles.values():
                    role.lost(lost)

    def _reader(self, request: PrefillRequest) -> Role:
        """Who reads it here: decode where it is also to be written here, prefill where it is handed over."""
        here = request.decode.node == self._desk.hello.node
        wanted = self._roles.get(DECODE if here else PREFILL)
        return wanted if wanted is not None else next(iter(self._roles.values()))

    def _become(self, router: NodeId, name: str) -> None:
        if name in self._roles:
            log.info("a %s node from now on: %s asked for it", name, router)
            self._desk.outbox.take_role(name)

    # --- steps ----------------------------------------------------------------------------------------------

    def _watch(self, out: StepOutput, layers: int) -> None:
        if layers == 0:
            self._parts = [(role, role.looks, part) for role, part in self._divided(out)]
        last = self._desk.hello.layout.layers
        for role, every, part in self._parts:
            if layers % every == 0 or layers == last:
                role.watch(part, layers)

    def _divided(self, out: StepOutput) -> list[tuple[Role, StepOutput]]:
        """What each role is to see of it. What none owns (another choice of it has just failed) is the last
        one's, which only gives its pages back.
        """
        *others, last = self._roles.values()
        if not others:
            return [(last, out)]
        parts = [(role, StepOutput(waits=out.waits)) for role in (*others, last)]

        def part_of(seq: Sequence) -> StepOutput:
            return next((part for role, part in parts if role.owns(seq)), parts[-1][1])

        for computed in out.computed:
            part_of(computed.seq).computed.append(computed)
        for seq in out.preempted:
            part_of(seq).preempted.append(seq)
        for token in out.tokens:
            part_of(token.seq).tokens.append(token)
        for finished in out.finished:
            part_of(finished.seq).finished.append(finished)
        for scored in out.prompt_logprobs:
            part_of(scored[0]).prompt_logprobs.append(scored)
        return parts

    def _report(self, now: float, *, busy: bool) -> None:
        """While steps follow each other, no more often than heartbeats can carry it."""
        self._pages.tell(now, busy=busy)
        if not busy or now >= self._report_at:
            self._report_at = now + REPORT_EVERY_S
            self._desk.outbox.report(self.load())
