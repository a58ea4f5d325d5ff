"""What the nodes reported about themselves, under names of its own for each figure.

Reads the fleet when it is asked, so that a lost node's series end with it. Knows names and loads; knows no
request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pagewire.messages import Load
from router.fleet import Fleet, Node

_NODE = ("node", "role")


class _Family(NamedTuple):
    """One metric. ``label`` is a further label of it, "" for none."""

    name: str
    text: str
    counts: bool = False
    label: str = ""

    def metric(self) -> CounterMetricFamily | GaugeMetricFamily:
        labels = [*_NODE, self.label] if self.label else _NODE
        kind = CounterMetricFamily if self.counts else GaugeMetricFamily
        return kind(self.name, self.text, labels=labels)


_WAITING = _Family("pagewire:num_requests_waiting", "Sequences waiting on the node.")
_RUNNING = _Family("pagewire:num_requests_running", "Sequences running on the node.")
_QUEUED = _Family("pagewire:queued_tokens", "Tokens that the node has yet to compute before first tokens.")
_FREE = _Family("pagewire:kv_pages_free", "Pages that are free or hold only evictable prefix cache.")
_TOTAL = _Family("pagewire:kv_pages_total", "All pages of the node.")
_TRANSFERS = _Family("pagewire:transfers", "Handoffs in progress on the node.")
_STEPS = _Family("pagewire:steps", "Forward steps since the node started.", counts=True)
_USAGE = _Family("pagewire:kv_cache_usage_perc", "Share of pages in use, 0 to 1.")
_OTHER = _Family("pagewire:node_gauge", "Whatever else the node reports, by name.", label="name")

_PAGES = _Family(
    "pagewire:kv_pages", "Pages by what they are: free, cached (evictable) or leased.", label="state"
)
_HELD = _Family(
    "pagewire:node_requests",
    "Requests in the node's hands, by stage: jobs (prefill), landing and live (decode).",
    label="stage",
)
_QUERIED = _Family(
    "pagewire:node_prefix_cache_queries", "Tokens looked for in the node's prefix cache.", True
)
_HIT = _Family("pagewire:node_prefix_cache_hits", "Tokens found in the node's prefix cache.", True)
_PREEMPTED = _Family("pagewire:num_preemptions", "Sequences whose pages were taken for others.", True)
_CREDIT = _Family("pagewire:handoff_credit_bytes", "Bytes that may be on the way to or from the node now.")
_FRAMES = _Family("pagewire:node_handoff_frames", "Frames of KV that the node sent or landed.", True)
_BYTES = _Family("pagewire:node_handoff_bytes", "Bytes of KV that the node sent or landed.", True)
_RESENT = _Family("pagewire:handoff_retries", "RESERVE and COMMIT messages that the node sent again.", True)
_ENDED = _Family("pagewire:handoffs", "Handoffs of the node by what became of them.", True, "outcome")
_STRANGE = _Family(
    "pagewire:handoff_frames_refused", "Frames that the node did not take, by the reason.", True, "reason"
)

_OUTCOMES = ("reserved", "refused", "done", "landed", "adopted", "dropped", "lost", "aborted")
_REASONS = (
    "late", "unknown", "stray", "duplicate", "out_of_range", "forged", "corrupt", "version", "malformed",
    "denied", "failed", "crowded",
)  # fmt: skip

# a node's own name of a figure -> its metric, and the value of the further label
_GAUGES: dict[str, tuple[_Family, str]] = {
    "pages_free": (_PAGES, "free"),
    "pages_cached": (_PAGES, "cached"),
    "pages_leased": (_PAGES, "leased"),
    "jobs": (_HELD, "jobs"),
    "landing": (_HELD, "landing"),
    "live": (_HELD, "live"),
    "prefix_cache_queried_tokens": (_QUERIED, ""),
    "prefix_cache_hit_tokens": (_HIT, ""),
    "preemptions": (_PREEMPTED, ""),
    "transfer_credit_bytes": (_CREDIT, ""),
    "transfer_frames": (_FRAMES, ""),
    "transfer_bytes": (_BYTES, ""),
    "transfer_retries": (_RESENT, ""),
    **{f"transfer_{outcome}": (_ENDED, outcome) for outcome in _OUTCOMES},
    **{f"transfer_{reason}": (_STRANGE, reason) for reason in _REASONS},
}
_HIDDEN = frozenset({"transfers_open"})  # the same figure as Load.transfers

_FAMILIES = (
    _WAITING, _RUNNING, _QUEUED, _FREE, _TOTAL, _TRANSFERS, _STEPS, _USAGE,
    *dict.fromkeys(family for family, _ in _GAUGES.values()), _OTHER,
)  # fmt: skip


class NodeMetrics(Collector):
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        metrics = {family: family.metric() for family in _FAMILIES}
        for node in self._fleet.nodes.values():
            for family, further, value in _figures(node):
                labels = [node.hello.node, node.role]
                metrics[family].add_metric([*labels, further] if family.label else labels, value)
        return metrics.values()


def _figures(node: Node) -> Iterable[tuple[_Family, str, float]]:
    load = node.load
    yield _WAITING, "", load.waiting
    yield _RUNNING, "", load.running
    yield _QUEUED, "", load.queued_tokens
    yield _FREE, "", load.pages_free
    yield _TOTAL, "", load.pages_total
    yield _TRANSFERS, "", load.transfers
    yield _STEPS, "", load.steps
    yield _USAGE, "", usage(load)
    for name, value in load.gauges.items():
        if name not in _HIDDEN:
            yield (*_GAUGES.get(name, (_OTHER, name)), value)


def usage(load: Load) -> float:
    """The share of its pages that a node cannot give to anybody now, 0 to 1."""
    return 1 - load.pages_free / load.pages_total if load.pages_total else 0.0
