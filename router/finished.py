"""A request that has ended, as plain facts: for metrics, logs, traces and the dashboard.

Knows times, counts and names; holds no text, neither of a prompt nor of an answer, so that whoever shows it
cannot give any away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

QUEUE = "queue"
PREFILL = "prefill"
HANDOFF = "handoff"
DECODE = "decode"


@dataclass(frozen=True, slots=True)
class About:
    """Who asked for what. ``tenant`` names a key without telling it; ``traceparent`` is the client's."""

    tenant: str = ""
    model: str = ""
    stream: bool = False
    traceparent: str = ""


NOBODY = About()


class Segment(NamedTuple):
    """A stretch of a request's life, in seconds after its arrival. ``node``: where; "" for the router."""

    name: str
    start_s: float
    end_s: float
    node: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Seconds count from the request's arrival at the router; ``arrived`` is that, on the router's clock.

    ``finish`` is how its choices ended ("stop", "length", or both as "length+stop"), "abort" where the client
    left, "error"; ``code`` is the error's, and ``status`` what HTTP says of it. None: no node reported it.
    """

    request: str
    about: About
    arrived: float
    first_s: float | None
    last_s: float | None
    ended_s: float
    prompt_tokens: int
    cached_tokens: int | None
    completion_tokens: int
    longest_choice: int  # tokens
    finish: str
    code: str
    status: int
    attempts: int
    prefill_node: str
    decode_node: str
    queue_ms: float | None
    prefill_ms: float | None
    hidden_ms: float | None
    exposed_ms: float | None
    handoff_bytes: int | None
    decode_queue_ms: float | None

    @property
    def handed_over(self) -> bool:
        return bool(self.handoff_bytes)

    def segments(self) -> Iterator[Segment]:
        """What the client waited for, one after the other, without gaps.

        Clocks of hosts need not agree: what nodes report are lengths, and they are laid on the router's own
        times. The prefill ends with the first token here; what was before it is the queue, messages between
        the processes included; the handoff's exposed part begins with the first token.
        """
        if self.first_s is None:
            yield Segment(QUEUE, 0.0, self.ended_s, "")
            return
        first, last = self.first_s, max(self.first_s, self.last_s or 0.0)
        began = max(0.0, first - (self.prefill_ms or 0.0) / 1000)
        adopted = min(last, first + (self.exposed_ms or 0.0) / 1000) if self.handed_over else first
        yield Segment(QUEUE, 0.0, began, "")
        yield Segment(PREFILL, began, first, self.prefill_node)
        if self.handed_over:
            yield Segment(HANDOFF, first, adopted, self.prefill_node)
        yield Segment(DECODE, adopted, last, self.decode_node)
