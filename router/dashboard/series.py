"""The last ten minutes as points, one a second: latencies, throughput and how full the nodes are.

Pure: the clock's time and what the meters and the fleet say now come in, points come out. Latencies and rates
are those of the last few seconds. They are read from the meters that /metrics shows: a token costs nothing
more for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from pagewire.messages import DECODE, PREFILL
from router.fleet import Fleet, Node
from router.meters import Histogram, quantile
from router.metrics import Metrics
from router.node_metrics import usage

POINTS = 600
WINDOW = 5  # seconds that go into a point


class Point(NamedTuple):
    """``t`` is Unix time; latencies are in ms, rates a second, usages 0 to 1. None: nothing to tell."""

    t: float
    ttft_p50: float | None
    ttft_p95: float | None
    itl_p50: float | None
    itl_p99: float | None
    prompt_rate: float
    output_rate: float
    request_rate: float
    kv_prefill: float | None
    kv_decode: float | None
    inflight: int


class _Totals(NamedTuple):
    at: float
    ttft: list[int]
    gap: list[int]
    prompt: float
    output: float
    requests: float


class Series:
    """``points`` are the newest last."""

    def __init__(self) -> None:
        self.points: deque[Point] = deque(maxlen=POINTS)
        self._totals: deque[_Totals] = deque(maxlen=WINDOW + 1)

    def sample(self, now: float, unix: float, metrics: Metrics, fleet: Fleet, inflight: int) -> Point:
        totals = _Totals(
            now,
            list(metrics.ttft.counts),
            list(metrics.gap.counts),
            metrics.prompt_tokens.value,
            metrics.generation_tokens.value,
            sum(metrics.e2e.counts),
        )
        self._totals.append(totals)
        first = self._totals[0]
        seconds = max(totals.at - first.at, 1e-3)
        ttft = _grown(first.ttft, totals.ttft)
        gap = _grown(first.gap, totals.gap)
        point = Point(
            t=round(unix, 3),
            ttft_p50=_ms(metrics.ttft, ttft, 0.5),
            ttft_p95=_ms(metrics.ttft, ttft, 0.95),
            itl_p50=_ms(metrics.gap, gap, 0.5),
            itl_p99=_ms(metrics.gap, gap, 0.99),
            prompt_rate=round((totals.prompt - first.prompt) / seconds, 1),
            output_rate=round((totals.output - first.output) / seconds, 1),
            request_rate=round((totals.requests - first.requests) / seconds, 1),
            kv_prefill=_fullest(fleet.of(PREFILL)),
            kv_decode=_fullest(fleet.of(DECODE)),
            inflight=inflight,
        )
        self.points.append(point)
        return point

    def columns(self) -> dict[str, list[float | None]]:
        """All points, a list for each figure."""
        return {name: [getattr(point, name) for point in self.points] for name in Point._fields}


def _grown(before: list[int], after: list[int]) -> list[int]:
    return [b - a for a, b in zip(before, after, strict=True)]


def _ms(histogram: Histogram, counts: list[int], share: float) -> float | None:
    value = quantile(histogram.bounds, counts, share)
    return None if value is None else round(value * 1000, 2)


def _fullest(nodes: Iterable[Node]) -> float | None:
    """Of several nodes the fullest counts: that is where requests begin to wait."""
    return max((round(usage(node.load), 4) for node in nodes), default=None)
