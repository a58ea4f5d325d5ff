"""What a role is to a node: the work around the engine's steps that prefill or decode makes of it.

Knows sequences and messages; knows no socket beyond ``Outbox`` and nothing of how KV travels. A node has one
role or several: ``pagewire.node_loop`` calls them in turn, and what is in ``Desk`` they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pagewire.attempts import Attempts
from pagewire.engine.engine import Engine, StepOutput
from pagewire.engine.sequence import Sequence
from pagewire.messages import Cancel, Failed, Hello, NodeId, PrefillRequest, RequestId
from pagewire.pace import Pace
from pagewire.pledges import Pledges
from pagewire.replies import Outbox, Replies

Key = tuple[RequestId, int]  # a request and the number of an attempt at it


@dataclass(frozen=True, slots=True)
class Desk:
    """``clock`` gives monotonic seconds. ``pledges`` is there where the node has both roles."""

    hello: Hello
    engine: Engine
    outbox: Outbox
    clock: Callable[[], float]
    replies: Replies
    attempts: Attempts
    pace: Pace
    pledges: Pledges | None

    @classmethod
    def of(
        cls, hello: Hello, engine: Engine, outbox: Outbox, clock: Callable[[], float], *, both: bool
    ) -> Desk:
        pledges = Pledges() if both else None
        return cls(hello, engine, outbox, clock, Replies(hello), Attempts(), Pace(), pledges)

    def failed(self, router: NodeId, key: Key, code: str, message: str, *, retryable: bool) -> None:
        """Tell ``router`` that an attempt has ended here without finishing."""
        node, epoch = self.hello.node, self.hello.epoch
        self.outbox.send(router, Failed(node, epoch, *key, code, message, retryable))


@dataclass(frozen=True, slots=True)
class Share:
    """How much a role has in hand, for the node's ``Load``."""

    waiting: int
    queued_tokens: int
    transfers: int
    gauges: dict[str, float]


class Role(Protocol):
    """Times are on the desk's clock. In a step's output a role sees its own sequences only."""

    # --- what routers say

    def take(self, router: NodeId, request: PrefillRequest, now: float) -> None:
        """An attempt that is begun here."""

    def cancel(self, cancel: Cancel) -> None:
        """Idempotent; what is not here is ignored."""

    def lost(self, router: NodeId) -> None:
        """Drop what runs for ``router``."""

    # --- around a step

    def advance(self, now: float) -> None:
        """Before it: take in what the other side of a handoff said, end what is overdue, ask or grant."""

    @property
    def looks(self) -> int:
        """Layers between two calls of ``watch`` in the next step."""

    def watch(self, out: StepOutput, layers: int) -> None:
        """In the middle of it; see ``pagewire.engine.engine.Watch``."""

    def reply(self, out: StepOutput, began: float) -> None:
        """After it, which began then: answer for what it has done."""

    # --- about what is in hand

    def owns(self, seq: Sequence) -> bool: ...

    def deadlines(self) -> Iterator[float]:
        """One for each attempt that is here."""

    def share(self) -> Share: ...

    def fail_all(self, code: str, message: str) -> None:
        """Give everything back to its router, to be done elsewhere."""


MakeRole = Callable[[Desk], Role]
