"""The router's own line in the directory, and what it sees there.

Nodes find the router by it and then speak for themselves, so nothing of the directory reaches placement.
Knows options and addresses; knows no redis command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pagewire.mailbox import SPEAKS
from pagewire.membership.enrol import enrol_router
from pagewire.messages import Epoch, NodeId
from router.options import RouterOptions


class Seen(Protocol):
    """A directory, as far as it can be watched."""

    up: bool
    refused: int

    @property
    def counts(self) -> Mapping[str, int]: ...


class Listed(Seen, Protocol):
    def leave(self) -> None: ...


def listed(
    options: RouterOptions, name: NodeId, epoch: Epoch, bound: str, model: str, secret: bytes | None
) -> Listed | None:
    """The router in its directory, if it has one, as long as it does not leave. Raises ConfigError."""
    if options.registry is None:
        return None
    assert secret is not None
    address = dialled_at(bound, options.advertise)
    return enrol_router(options.registry, options.cluster, name, epoch, SPEAKS, address, model, secret)


def dialled_at(bound: str, advertise: str) -> str:
    """Where nodes dial a mailbox that is ``bound``: at ``advertise``, if that is given. Its port 0 stands for
    the one that the mailbox took.
    """
    if not advertise or not bound.startswith("tcp://"):
        return advertise or bound
    parts = urlsplit(advertise)
    if parts.port != 0:
        return advertise
    return f"{advertise.rpartition(':')[0]}:{urlsplit(bound).port}"


class DirectoryMetrics(Collector):
    def __init__(self, directory: Seen) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        text = "Whether the directory in redis answers, 0 or 1."
        yield GaugeMetricFamily("pagewire:registry_up", text, value=float(self._directory.up))
        text = "Members that the directory listed when it was last asked."
        members = GaugeMetricFamily("pagewire:registry_records", text, labels=["kind"])
        for kind, count in sorted(self._directory.counts.items()):
            members.add_metric([kind], count)
        yield members
        text = "Records in the directory that this cluster had not signed for that place."
        yield CounterMetricFamily("pagewire:registry_refused", text, value=self._directory.refused)
