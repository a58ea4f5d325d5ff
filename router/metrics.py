"""What operators see at /metrics: requests as the router lived them, and nodes as they last reported.

Names follow what operators know from other servers. Knows counters, seconds and ended requests as plain
facts; knows no request that still runs. docs/metrics.md is written from here (``router.metrics_reference``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from pagewire.guard import Refusals
from pagewire.messages import Spans
from pagewire.timeline import TRANSFER_BYTES, TRANSFER_EXPOSED, TRANSFER_FRAMES, TRANSFER_HIDDEN
from router.buckets import GAP, HANDOFF, LATENCY, TOKENS
from router.finished import Finished
from router.fleet import Fleet
from router.meters import Counter, Histogram, LabelledCounter, LabelledHistogram
from router.node_metrics import NodeMetrics


class Door(Protocol):
    """A mailbox, as far as it turns strangers and what they send away."""

    refused: int
    newer: int

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
        self.registry = CollectorRegistry()
        self._latencies()
        self._requests()
        self._tokens()
        self._handoffs()
        self.http = self._counter(
            "http_requests", "HTTP requests by route and status; 499: the client left.", "route", "status"
        )
        self.lost = self._counter("nodes_lost", "Nodes given up.", "role")
        self.moves = self._counter("role_moves", "Nodes that --autorole told to change, by what to.", "role")
        self._gauge("router_inflight_requests", "Requests in the router's hands.", inflight)
        self._gauge("router_queued_requests", "Of those, waiting for their turn.", queued)
        text = "Pairs of a prefill and a decode node that did not reach each other when last tried."
        self._gauge("router_cut_pairs", text, cut_pairs)
        self.registry.register(NodeMetrics(fleet))

    def _latencies(self) -> None:
        make = self._histogram
        self.ttft = make(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", LATENCY
        )
        text = "How far a first token came from when placement had predicted it, either way."
        self._mispredicted = make("ttft_prediction_error_seconds", text, LATENCY)
        self.ttst = make("time_to_second_token_seconds", "From a choice's first token to its second.", GAP)
        self.gap = make("inter_token_latency_seconds", "Gap between two tokens of a choice.", GAP)
        self.e2e = make("e2e_request_latency_seconds", "From a request's arrival to its end.", LATENCY)
        self._per_token = make(
            "request_time_per_output_token_seconds", "Mean gap between the tokens of a request.", GAP
        )
        self._queue = make(
            "request_queue_time_seconds",
            "Of a request: waiting for nodes, for its turn and for room on the decode node.",
            LATENCY,
        )
        self._prefill = make("request_prefill_time_seconds", "Of a request: computing its prompt.", LATENCY)
        self._decode = make(
            "request_decode_time_seconds", "Of a request: from its first token to its last.", LATENCY
        )

    def _requests(self) -> None:
        self._taken = self._plain("requests_taken", "Requests (prompts) that were taken.")
        self.finished = self._counter("request_success", "Choices by how they ended.", "finished_reason")
        text = "Requests that ended with an error, by its code."
        self.failed = self._counter("request_failure", text, "code")
        text = "Requests that were not taken, by the error's code."
        self.refused = self._counter("request_refused", text, "code")
        self.retries = self._plain("request_retries", "Attempts after the first.")
        text = "Attempts by why their nodes were chosen, as the x-pagewire-served-by header says."
        self.placed = self._counter("placements", text, "reason")

    def _tokens(self) -> None:
        self.prompt_tokens = self._plain("prompt_tokens", "Prompt tokens taken.")
        self.generation_tokens = self._plain("generation_tokens", "Tokens given out.")
        self.late_tokens = self._plain(
            "late_tokens", "Tokens that came when their request had ended: computed for nobody."
        )
        self._cache_queries = self._plain(
            "prefix_cache_queries", "Prompt tokens of requests whose prefill node said what it had cached."
        )
        self._cache_hits = self._plain("prefix_cache_hits", "Prompt tokens that were in the prefix cache.")
        self._prompt_length = self._histogram("request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self._answer_length = self._histogram(
            "request_generation_tokens", "Tokens given out for a request, over all its choices.", TOKENS
        )

    def _handoffs(self) -> None:
        make = self._histogram
        self._handoff = LabelledHistogram(
            "pagewire:handoff_seconds",
            "Of a completed handoff: all of its transfer, by how many leading parts the topologies of its "
            "nodes share.",
            "shared",
            HANDOFF,
            self.registry,
        )
        self._exposed = make(
            "handoff_exposed_seconds",
            "Of a completed handoff: what came after the first token, in the client's way.",
            HANDOFF,
        )
        self._handoff_bytes = self._plain("handoff_bytes", "Bytes of KV in completed handoffs.")
        self._handoff_frames = self._plain("handoff_frames", "Frames of KV in completed handoffs.")

    # --- events ---------------------------------------------------------------------------------------------

    def taken(self, prompt_tokens: int) -> None:
        self._taken.inc()
        self.prompt_tokens.inc(prompt_tokens)

    def cached(self, prompt_tokens: int, found: int) -> None:
        self._cache_queries.inc(prompt_tokens)
        self._cache_hits.inc(found)

    def handed_over(self, spans: Spans, distance: int | None) -> None:
        """A prefill node reported; it counts the bytes of each handoff once, when it is complete."""
        if not (size := spans.counts.get(TRANSFER_BYTES, 0)):
            return
        exposed = spans.ms.get(TRANSFER_EXPOSED, 0.0) / 1000
        self._exposed.observe(exposed)
        took = self._handoff.of("" if distance is None else str(distance))
        took.observe(exposed + spans.ms.get(TRANSFER_HIDDEN, 0.0) / 1000)
        self._handoff_bytes.inc(size)
        self._handoff_frames.inc(spans.counts.get(TRANSFER_FRAMES, 0))

    def told(self, finished: Finished) -> None:
        """All that can be known of a request is known."""
        self._prompt_length.observe(finished.prompt_tokens)
        self._answer_length.observe(finished.completion_tokens)
        if finished.queue_ms is not None:
            self._queue.observe(finished.queue_ms / 1000)
        if finished.prefill_ms is not None:
            self._prefill.observe(finished.prefill_ms / 1000)
        if finished.first_s is not None and finished.last_s is not None:
            self._decode.observe(finished.last_s - finished.first_s)
            if finished.longest_choice > 1:
                self._per_token.observe((finished.last_s - finished.first_s) / (finished.longest_choice - 1))

    def first_token(self, seconds: float, predicted_ms: float | None) -> None:
        """``predicted_ms`` is what placement believed; None: it was placed more than once."""
        self.ttft.observe(seconds)
        if predicted_ms is not None:
            self._mispredicted.observe(abs(seconds - predicted_ms / 1000))

    def watch(self, door: Door) -> None:
        """Show from now on what ``door`` refused."""
        self.registry.register(_Refused(door))

    def page(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    # --- making them ----------------------------------------------------------------------------------------

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"pagewire:{name}", text, bounds, self.registry)

    def _plain(self, name: str, text: str) -> Counter:
        return Counter(f"pagewire:{name}", text, self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> LabelledCounter:
        return LabelledCounter(f"pagewire:{name}", text, labels, self.registry)

    def _gauge(self, name: str, text: str, value: Callable[[], int]) -> None:
        Gauge(f"pagewire:{name}", text, registry=self.registry).set_function(value)


class _Refused(Collector):
    def __init__(self, door: Door) -> None:
        self._door = door

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "pagewire:mailbox_refused_total",
            "Messages of nodes that could not be read (malformed), or that only a newer version knows "
            "(newer), and connections that were not let in.",
            labels=["reason"],
        )
        messages = {"malformed": self._door.refused, "newer": self._door.newer}
        for reason, value in {**messages, **self._door.refusals._asdict()}.items():
            family.add_metric([reason], value)
        yield family
