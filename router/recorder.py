"""Tells each request's story once it has ended: to metrics, the log, traces and the dashboard.

A client is answered as soon as its tokens are there; what the nodes report of the handoff may come later.
Here the ended request waits for it, not longer than ``LINGER_S``; one that was broken off does not wait.
Knows requests that have ended; decides nothing about those that run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pagewire.errors import PagewireError
from pagewire.messages import RequestId, Spans
from router.answers import status_of
from router.finished import Finished
from router.inflight import Inflight

LINGER_S = 5.0  # a prefill node that has no core for itself tells late
MOST_WAITING = 10_000  # then the oldest are told as they are

GONE = 499  # the client hung up first

Observer = Callable[[Finished], None]


class _Ended(NamedTuple):
    at: float
    member: Inflight
    error: PagewireError | None


class Recorder:
    """``observers`` are called in order, on the router's loop; none of them may raise or wait."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self._waiting: dict[RequestId, _Ended] = {}  # oldest first

    def ended(self, now: float, member: Inflight, error: PagewireError | None) -> None:
        ended = _Ended(now, member, error)
        if error is not None or not _whole(member) or _complete(member):
            self._tell(ended)
            return
        self._waiting[member.dispatch.job.request] = ended
        if len(self._waiting) > MOST_WAITING:
            self._tell(self._waiting.pop(next(iter(self._waiting))))

    def member(self, request: RequestId) -> Inflight | None:
        """A request that has ended and of which not all is told."""
        ended = self._waiting.get(request)
        return None if ended is None else ended.member

    def spans(self, spans: Spans) -> None:
        """A node reported of a request that is no longer in hand."""
        if ended := self._waiting.get(spans.request):
            ended.member.spans(spans)
            if _complete(ended.member):
                self._tell(self._waiting.pop(spans.request))

    def tick(self, now: float) -> None:
        while self._waiting:
            request, ended = next(iter(self._waiting.items()))
            if now - ended.at < LINGER_S:
                return
            self._tell(self._waiting.pop(request))

    def flush(self) -> None:
        """Tell all: the router is about to end."""
        while self._waiting:
            self._tell(self._waiting.pop(next(iter(self._waiting))))

    def _tell(self, ended: _Ended) -> None:
        finished = finished_of(ended.member, ended.error)
        for observer in self.observers:
            observer(finished)


def _whole(member: Inflight) -> bool:
    return all(choice.finish for choice in member.choices)


def _complete(member: Inflight) -> bool:
    last = len(member.dispatch.pairs) - 1
    return member.timeline.complete(last, decoded=any(choice.tokens > 1 for choice in member.choices))


def finished_of(member: Inflight, error: PagewireError | None) -> Finished:
    assert member.ended_at is not None
    timing, arrived = member.timing(member.ended_at), member.arrived
    lasts = [choice.last_at - arrived for choice in member.choices if choice.last_at is not None]
    pair = member.dispatch.pairs.get(len(member.dispatch.pairs) - 1)
    ends = sorted({choice.finish for choice in member.choices if choice.finish})
    whole = _whole(member)
    return Finished(
        request=member.dispatch.job.request,
        about=member.about,
        arrived=arrived,
        first_s=None if member.first_at is None else member.first_at - arrived,
        last_s=max(lasts, default=None),
        ended_s=member.ended_at - arrived,
        prompt_tokens=member.prompt_tokens,
        cached_tokens=member.cached_tokens,
        completion_tokens=member.completion_tokens,
        longest_choice=max(choice.tokens for choice in member.choices),
        finish="error" if error is not None else "+".join(ends) if whole else "abort",
        code=error.code if error is not None else "",
        status=status_of(error) if error is not None else 200 if whole else GONE,
        attempts=len(member.dispatch.pairs),
        prefill_node=pair.prefill.node if pair else "",
        decode_node=pair.decode.node if pair else "",
        queue_ms=timing["queue_ms"],
        prefill_ms=timing["prefill_ms"],
        hidden_ms=timing["transfer_ms"]["hidden"],
        exposed_ms=timing["transfer_ms"]["exposed"],
        handoff_bytes=timing["transfer_bytes"],
        decode_queue_ms=timing["decode_queue_ms"],
    )
