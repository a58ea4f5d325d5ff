"""Counters and histograms for one thread, a tenth of the price of prometheus_client's, which lock.

They are observed for every token that is given out, on the router's only loop. prometheus_client still writes
the page: each meter is a collector in its registry. Knows numbers and labels; knows no request and no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Count:
    """One number that only rises."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Counter(Count, Collector):
    """A counter without labels. ``name`` without ``_total``."""

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        super().__init__()
        self._name, self._text = name, text
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self.value)


class LabelledCounter(Collector):
    """A counter for each set of labels, made when it is first asked for. Whoever asks bounds the sets."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._names = name, text, labels
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        count = self._counts.get(values)
        if count is None:
            assert len(values) == len(self._names)
            count = self._counts[values] = Count()
        return count

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._names)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        yield family


class Buckets:
    """``bounds`` rise; a value belongs to the first that is not below it, or else to the one above all."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        names = [*(repr(float(bound)) for bound in self.bounds), "+Inf"]
        below = accumulate(self.counts)
        family.add_metric(labels, [(name, float(n)) for name, n in zip(names, below, strict=True)], self.sum)


class Histogram(Buckets, Collector):
    """A histogram without labels."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        super().__init__(bounds)
        self._name, self._text = name, text
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text)
        self.add_to(family, ())
        yield family


class LabelledHistogram(Collector):
    """Buckets for each value of a label, made when it is first asked for. Whoever asks bounds the values."""

    def __init__(
        self, name: str, text: str, label: str, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._label, self._bounds = name, text, label, bounds
        self._buckets: dict[str, Buckets] = {}
        registry.register(self)

    def of(self, value: str) -> Buckets:
        if value not in self._buckets:
            self._buckets[value] = Buckets(self._bounds)
        return self._buckets[value]

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        for value, buckets in self._buckets.items():
            buckets.add_to(family, [value])
        yield family


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The value that ``share`` of all do not exceed, as Prometheus estimates it: evenly spread in a bucket.

    None if there are no values. What lies above the last bound counts as that bound.
    """
    rank, low, seen = share * sum(counts), 0.0, 0
    if not any(counts):
        return None
    for bound, count in zip(bounds, counts, strict=False):
        if count and seen + count >= rank:
            return low + (bound - low) * (rank - seen) / count
        low, seen = bound, seen + count
    return bounds[-1]
