"""What operators see at /metrics: requests as the router lived them, and nodes as they last reported.

Knows counters, seconds and the fleet; knows no request. Names follow what operators know from other servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pagewire.guard import Refusals
from router.fleet import Fleet

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_GAP = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10)

_LOADS: tuple[tuple[str, str, str], ...] = (
    ("num_requests_waiting", "Sequences waiting on the node.", "waiting"),
    ("num_requests_running", "Sequences running on the node.", "running"),
    ("queued_tokens", "Tokens that the node has yet to compute before first tokens.", "queued_tokens"),
    ("kv_pages_free", "Pages that are free or hold only evictable prefix cache.", "pages_free"),
    ("kv_pages_total", "All pages of the node.", "pages_total"),
    ("transfers", "Handoffs in progress on the node.", "transfers"),
    ("steps_total", "Forward steps since the node started.", "steps"),
)


class Door(Protocol):
    """A mailbox, as far as it turns strangers and what they send away."""

    refused: int

    @property
    def refusals(self) -> Refusals: ...


class Metrics:
    """One registry a router, so that several can live in one process."""

    def __init__(
        self,
        fleet: Fleet,
        inflight: Callable[[], int],
        cut_pairs: Callable[[], int],
        queued: Callable[[], int],
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self.ttft = Histogram(
            "pagewire:time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=_LATENCY,
            registry=registry,
        )
        self.gap = Histogram(
            "pagewire:inter_token_latency_seconds",
            "Gap between two tokens of a choice.",
            buckets=_GAP,
            registry=registry,
        )
        self.e2e = Histogram(
            "pagewire:e2e_request_latency_seconds",
            "From a request's arrival to its end.",
            buckets=_LATENCY,
            registry=registry,
        )
        self.finished = Counter(
            "pagewire:request_success_total",
            "Choices by how they ended.",
            ["finished_reason"],
            registry=registry,
        )
        self.failed = Counter(
            "pagewire:request_failure_total",
            "Requests that ended with an error, by its code.",
            ["code"],
            registry=registry,
        )
        self.refused = Counter(
            "pagewire:request_refused_total",
            "Requests that were not taken, by the error's code.",
            ["code"],
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "pagewire:prompt_tokens_total", "Prompt tokens taken.", registry=registry
        )
        self.generation_tokens = Counter(
            "pagewire:generation_tokens_total", "Tokens given out.", registry=registry
        )
        self.late_tokens = Counter(
            "pagewire:late_tokens_total",
            "Tokens that came when their request had ended: computed for nobody.",
            registry=registry,
        )
        self.cached_tokens = Counter(
            "pagewire:prefix_cache_hits_total", "Prompt tokens found in a prefix cache.", registry=registry
        )
        self.retries = Counter(
            "pagewire:request_retries_total", "Attempts after the first.", registry=registry
        )
        self.placed = Counter(
            "pagewire:placements_total",
            "Attempts by why their nodes were chosen, as the x-pagewire-served-by header says.",
            ["reason"],
            registry=registry,
        )
        self.mispredicted = Histogram(
            "pagewire:ttft_prediction_error_seconds",
            "How far a first token came from when placement had predicted it, either way.",
            buckets=_LATENCY,
            registry=registry,
        )
        self.lost = Counter("pagewire:nodes_lost_total", "Nodes given up.", ["role"], registry=registry)
        Gauge(
            "pagewire:router_inflight_requests", "Requests in the router's hands.", registry=registry
        ).set_function(inflight)
        Gauge(
            "pagewire:router_queued_requests", "Of those, waiting for their turn.", registry=registry
        ).set_function(queued)
        Gauge(
            "pagewire:router_cut_pairs",
            "Pairs of a prefill and a decode node that did not reach each other when last tried.",
            registry=registry,
        ).set_function(cut_pairs)
        registry.register(_Nodes(fleet))

    def first_token(self, seconds: float, predicted_ms: float | None) -> None:
        """``predicted_ms`` is what placement believed; None: it was placed more than once."""
        self.ttft.observe(seconds)
        if predicted_ms is not None:
            self.mispredicted.observe(abs(seconds - predicted_ms / 1000))

    def watch(self, door: Door) -> None:
        """Show from now on what ``door`` refused."""
        self.registry.register(_Refused(door))

    def page(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class _Refused(Collector):
    def __init__(self, door: Door) -> None:
        self._door = door

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "pagewire:mailbox_refused_total",
            "Messages of nodes that could not be read (malformed), and connections that were not let in.",
            labels=["reason"],
        )
        for reason, value in {"malformed": self._door.refused, **self._door.refusals._asdict()}.items():
            family.add_metric([reason], value)
        yield family


class _Nodes(Collector):
    """Reads the fleet when it is asked, so that a lost node's series end with it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        nodes = list(self._fleet.nodes.values())
        for name, text, attribute in _LOADS:
            family = GaugeMetricFamily(f"pagewire:{name}", text, labels=["node", "role"])
            for node in nodes:
                family.add_metric([node.hello.node, node.hello.role], getattr(node.load, attribute))
            yield family
        usage = GaugeMetricFamily(
            "pagewire:kv_cache_usage_perc", "Share of pages in use, 0 to 1.", labels=["node", "role"]
        )
        further = GaugeMetricFamily(
            "pagewire:node_gauge", "Whatever else the node reports, by name.", labels=["node", "role", "name"]
        )
        for node in nodes:
            labels = [node.hello.node, node.hello.role]
            total = node.load.pages_total
            usage.add_metric(labels, 1 - node.load.pages_free / total if total else 0.0)
            for name, value in node.load.gauges.items():
                further.add_metric([*labels, name], value)
        yield usage
        yield further
