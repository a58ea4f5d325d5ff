from __future__ import annotations

from typing import Any

from pagewire import timeline
from pagewire.messages import DECODE, PREFILL, NodeId, RequestId, Spans
from pagewire.timeline import Stopwatch, Timeline


def spans(role: str, attempt: int = 0, counts: dict[str, int] | None = None, **ms: float) -> Spans:
    return Spans(RequestId("r"), attempt, NodeId(f"{role}-0"), role, 7, ms, counts or {})


def timing(line: Timeline) -> dict[str, Any]:
    return line.timing(waited_ms=1.0, ttft_ms=20.0, total_ms=90.0, attempts=1)


def test_laps_follow_each_other() -> None:
    watch = Stopwatch(10.0)
    watch.lap("queue", 10.5)
    watch.lap("prefill", 10.75)
    watch.add("queue", 0.001)
    assert watch.ms == {"queue": 501.0, "prefill": 250.0}
    assert watch.mark == 10.75


def test_reports_of_one_role_merge() -> None:
    line = Timeline()
    line.add(spans(PREFILL, queue=3.0, reserve=2.0, prefill=9.0))
    line.add(spans(PREFILL, counts={timeline.TRANSFER_BYTES: 640}, transfer_exposed=4.0, transfer_hidden=5.0))
    got = timing(line)
    assert (got["queue_ms"], got["prefill_ms"], got["transfer_bytes"]) == (6.0, 9.0, 640)
    assert got["transfer_ms"] == {"exposed": 4.0, "hidden": 5.0}
    assert got["prefill"] == {"node": "prefill-0", "pid": 7}
    assert got["decode"] is None


def test_what_nobody_reported_is_null() -> None:
    got = timing(Timeline())
    assert got["queue_ms"] is None
    assert got["transfer_ms"] == {"exposed": None, "hidden": None}


def test_the_last_attempt_is_told() -> None:
    line = Timeline()
    line.add(spans(DECODE, 0, queue=1.0))
    line.add(spans(DECODE, 1, queue=2.0))
    assert timing(line)["decode_queue_ms"] == 2.0


def test_the_cache_hit_is_that_of_the_first_attempt() -> None:
    line = Timeline()
    line.add(spans(PREFILL, 1, {timeline.CACHED_TOKENS: 99}))
    line.add(spans(PREFILL, 0, {timeline.CACHED_TOKENS: 16}))
    assert line.cached_tokens == 16
    assert Timeline().cached_tokens is None


def test_complete_when_both_roles_have_told_all() -> None:
    line = Timeline()
    line.add(spans(PREFILL, queue=1.0, prefill=1.0))
    assert line.complete(0, decoded=False)
    assert not line.complete(0, decoded=True)
    line.add(spans(PREFILL, transfer_exposed=1.0))
    assert not line.complete(0, decoded=True)
    line.add(spans(DECODE, first_step=1.0))
    assert line.complete(0, decoded=True)
