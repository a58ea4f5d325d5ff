"""A request's timeline: what nodes call their spans and counts, and how they become the ``timing`` of a
reply.

Knows names, milliseconds and ``Spans`` messages; knows no clock (``now`` is an argument) and no HTTP.

A node reports ``Spans`` for an attempt as soon as it has something, and again when it has more; the router
merges reports of the same attempt and role by name, and the later value wins:

    prefill, with the first token      queue, reserve, prefill          cached_tokens
    prefill, when decode has adopted   transfer_hidden, transfer_exposed   transfer_bytes, transfer_frames
    decode, with its first tokens      landing, queue, first_step

Times of one role do not overlap, except that transfer_hidden runs inside prefill, and decode's landing runs
beside all of prefill's spans after reserve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pagewire.messages import DECODE, PREFILL, Spans

QUEUE = "queue"  # both roles: taken in (decode: adopted) -> first scheduled
RESERVE = "reserve"  # prefill: asked the decode node for room -> granted
PREFILL_COMPUTE = "prefill"  # prefill: first chunk scheduled -> first token sampled
TRANSFER_HIDDEN = "transfer_hidden"  # prefill: sending while chunks were still being computed
TRANSFER_EXPOSED = "transfer_exposed"  # prefill: first token sampled -> adopted by decode
LANDING = "landing"  # decode: room granted -> adopted
FIRST_STEP = "first_step"  # decode: first scheduled -> its first token sampled

CACHED_TOKENS = "cached_tokens"  # prefill: leading tokens found in the prefix cache
TRANSFER_BYTES = "transfer_bytes"
TRANSFER_FRAMES = "transfer_frames"


@dataclass(slots=True)
class Stopwatch:
    """Consecutive spans of one attempt on one node. ``mark`` is where the current span began, in seconds."""

    mark: float
    ms: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str, now: float) -> None:
        """Charge the time since the mark to ``name`` and set the mark to ``now``."""
        self.add(name, now - self.mark)
        self.mark = now

    def add(self, name: str, seconds: float) -> None:
        self.ms[name] = self.ms.get(name, 0.0) + seconds * 1000.0


@dataclass(slots=True)
class _Part:
    """What one role reported for one attempt."""

    node: str
    pid: int
    ms: dict[str, float]
    counts: dict[str, int]


@dataclass(slots=True)
class Timeline:
    """All that the nodes reported about one request."""

    parts: dict[tuple[int, str], _Part] = field(default_factory=dict)

    def add(self, spans: Spans) -> None:
        part = self.parts.get((spans.attempt, spans.role))
        if part is None or part.pid != spans.pid:
            self.parts[spans.attempt, spans.role] = _Part(
                spans.node, spans.pid, dict(spans.ms), dict(spans.counts)
            )
            return
        part.ms.update(spans.ms)
        part.counts.update(spans.counts)

    @property
    def cached_tokens(self) -> int | None:
        """Prefix-cache hit of the earliest attempt that reported one; None while none has."""
        found = [
            (attempt, part.counts[CACHED_TOKENS])
            for (attempt, role), part in self.parts.items()
            if role == PREFILL and CACHED_TOKENS in part.counts
        ]
        return min(found)[1] if found else None

    def complete(self, attempt: int, *, decoded: bool) -> bool:
        """True if nothing more will come for ``attempt``. ``decoded``: a decode node took part in it."""
        prefill = self.parts.get((attempt, PREFILL))
        if prefill is None:
            return False
        if not decoded:
            return True
        decode = self.parts.get((attempt, DECODE))
        return TRANSFER_EXPOSED in prefill.ms and decode is not None and FIRST_STEP in decode.ms

    def timing(
        self, *, waited_ms: float, ttft_ms: float | None, total_ms: float, attempts: int
    ) -> dict[str, Any]:
        """The ``timing`` object of a reply, about the last attempt that was reported; null where unknown.

        ``waited_ms`` is what the router itself spent waiting for a pair of nodes.
        """
        last = max((attempt for attempt, _ in self.parts), default=-1)
        prefill, decode = self.parts.get((last, PREFILL)), self.parts.get((last, DECODE))
        pre_ms = prefill.ms if prefill else {}
        queued = pre_ms.get(QUEUE)
        return {
            "queue_ms": _round(None if queued is None else queued + pre_ms.get(RESERVE, 0.0) + waited_ms),
            "prefill_ms": _round(pre_ms.get(PREFILL_COMPUTE)),
            "transfer_ms": {
                "exposed": _round(pre_ms.get(TRANSFER_EXPOSED)),
                "hidden": _round(pre_ms.get(TRANSFER_HIDDEN)),
            },
            "transfer_bytes": prefill.counts.get(TRANSFER_BYTES) if prefill else None,
            "decode_queue_ms": _round(decode.ms.get(QUEUE) if decode else None),
            "ttft_ms": _round(ttft_ms),
            "total_ms": _round(total_ms),
            "attempts": attempts,
            "prefill": _who(prefill),
            "decode": _who(decode),
        }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _who(part: _Part | None) -> dict[str, Any] | None:
    return None if part is None else {"node": part.node, "pid": part.pid}
