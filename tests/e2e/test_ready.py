"""/ready tells the truth about real nodes: it is asked while they are stopped, killed, and back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cluster import Cluster, completion

pytestmark = pytest.mark.e2e

BOUND_S = 5.0  # three intervals, and what it takes to miss a heartbeat or two


@pytest.fixture(scope="module")
def cluster(tiny: Path) -> Iterator[Cluster]:
    sizes = ("--load-format", "dummy", "--kv-cache-memory", "64MiB")
    with Cluster(str(tiny), *sizes, "--canary-interval", "1") as running:
        yield running


def live(cluster: Cluster) -> bool:
    return httpx.get(f"{cluster.url}/live").status_code == 200


def proof_age(cluster: Cluster) -> float:
    age = httpx.get(f"{cluster.url}/health").json()["proof_age_s"]
    assert isinstance(age, float)
    return age


def test_the_router_s_own_requests_are_answered_and_leave_nothing(cluster: Cluster) -> None:
    time.sleep(2.5)
    assert proof_age(cluster) < 2
    cluster.until_nothing_is_held()
    assert {name: gauges["pages_cached"] for name, gauges in cluster.gauges().items()} == {
        "prefill-0": 0,
        "decode-0": 0,
    }


@pytest.mark.parametrize("name", ["decode-0", "prefill-0"])
def test_a_node_that_stands_still(cluster: Cluster, name: str) -> None:
    """Of the decode node there is no other. For a prefill node the decode node stands in."""
    pid = cluster.pid(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        if name == "decode-0":
            cluster.until(lambda: not cluster.ready(), BOUND_S)
            assert live(cluster)
        else:
            assert completion(cluster.url, prompt=[5] * 40, max_tokens=2)
            cluster.until(lambda: cluster.ready() and proof_age(cluster) < 1, 2 * BOUND_S)
    finally:
        os.kill(pid, signal.SIGCONT)
    cluster.until(cluster.ready, BOUND_S)


def test_a_node_that_is_killed(cluster: Cluster) -> None:
    cluster.kill("decode-0")
    cluster.until(lambda: not cluster.ready(), BOUND_S)
    assert live(cluster)
    cluster.until(cluster.ready, 60)
    assert completion(cluster.url, prompt=[5] * 40, max_tokens=2)
