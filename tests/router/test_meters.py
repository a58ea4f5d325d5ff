from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Known
from prometheus_client.parser import text_string_to_metric_families as parse

from router.meters import Counter, Histogram, LabelledCounter, quantile

BOUNDS = (0.1, 1.0, 10.0)
VALUES = st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0, 7.0, 10.0, 11.0]), max_size=30)


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    page = generate_latest(registry).decode()
    found = [sample for family in parse(page) for sample in family.samples]
    return {(s.name, s.labels.get("le", "")): s.value for s in found if not s.name.endswith("_created")}


@given(VALUES)
def test_a_histogram_counts_as_the_client_library_does(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine, known = Histogram("h", "t", BOUNDS, ours), Known("h", "t", buckets=BOUNDS, registry=theirs)
    for value in values:
        mine.observe(value)
        known.observe(value)
    assert samples(ours) == samples(theirs)


def test_a_counter_adds_up() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "t", registry)
    counter.inc()
    counter.inc(41)
    assert samples(registry) == {("c_total", ""): 42.0}


def test_a_labelled_counter_keeps_one_number_for_each_set_of_labels() -> None:
    registry = CollectorRegistry()
    counter = LabelledCounter("c", "t", ("a", "b"), registry)
    counter.labels("x", "y").inc()
    counter.labels("x", "z").inc(2)
    counter.labels("x", "y").inc()
    (family,) = parse(generate_latest(registry).decode())
    assert {tuple(s.labels.values()): s.value for s in family.samples} == {("x", "y"): 2, ("x", "z"): 2}


def test_a_quantile_lies_where_its_bucket_does() -> None:
    assert quantile(BOUNDS, [0, 4, 0, 0], 0.5) == 0.1 + 0.9 / 2
    assert quantile(BOUNDS, [0, 0, 0, 0], 0.5) is None
    assert quantile(BOUNDS, [0, 0, 0, 3], 0.5) == 10.0


@given(VALUES.filter(bool), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_with_their_share(values: list[float], one: float, other: float) -> None:
    histogram = Histogram("h", "t", BOUNDS, CollectorRegistry())
    for value in values:
        histogram.observe(value)
    low, high = (quantile(BOUNDS, histogram.counts, share) for share in sorted((one, other)))
    assert low is not None
    assert high is not None
    assert low <= high
