"""docs/metrics.md, written from the metrics: ``python -m router.metrics_reference > docs/metrics.md``.

Knows the registry as prometheus_client hands it out, and markdown. Nothing runs it while pagewire serves.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import Metric

from pagewire.guard import Refusals
from pagewire.messages import Epoch, NodeId
from router.directory import DirectoryMetrics
from router.fleet import Fleet
from router.metrics import Metrics

_HEAD = """# Metrics

Written by `python -m router.metrics_reference`; do not edit the table.

The router serves them at `/metrics`, those of all its nodes included: nodes report with their heartbeats,
every half second, and a lost node's series end. What nodes report of a request (queue, prefill) counts when
all of it is there, five seconds after the request's end at the latest. With API keys, give Prometheus one
(`authorization` in its scrape config).

[deploy/prometheus](../deploy/prometheus) has a scrape config and alerts, [deploy/grafana](../deploy/grafana)
a dashboard. Without either, the router's own page is at [/dashboard](dashboard.md).

| metric | kind | labels | |
|---|---|---|---|
"""


class _Door:
    refused = 0
    newer = 0
    refusals = Refusals()


class _Directory:
    up = False
    refused = 0
    counts: Mapping[str, int] = {}


def families() -> list[Metric]:
    """Every metric that a router may show, without values."""
    metrics = Metrics(Fleet(NodeId("router"), Epoch("e"), "0"), lambda: 0, lambda: 0, lambda: 0)
    metrics.watch(_Door())
    metrics.registry.register(DirectoryMetrics(_Directory()))
    return sorted(metrics.registry.collect(), key=lambda family: family.name)


def name_of(family: Metric) -> str:
    """As it is asked for: a counter ends with ``_total``."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_row(family) for family in families())


def _row(family: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()) if label != "le")
    return f"| `{name_of(family)}` | {family.type} | {labels} | {family.documentation} |\n"


if __name__ == "__main__":
    print(page(), end="")
