"""Without any prefill node the decode node does all of it, and the tokens are the same."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from cluster import Cluster, completion

from pagewire.cli import machine

pytestmark = pytest.mark.e2e

ASK = {
    "prompt": list(range(1000, 1300)),
    "max_tokens": 24,
    "ignore_eos": True,
    "temperature": 0.8,
    "seed": 5,
    "n": 2,
    "logprobs": 1,
    "return_token_ids": True,
    "timing": True,
}


def test_a_stopped_prefill_node_is_done_without_until_it_comes_back(tiny: Path) -> None:
    args = (str(tiny), "--load-format", "dummy", "--kv-cache-memory", "64MiB")
    with Cluster(*args, "--no-prefix-caching", "--recovery-timeout", "60") as cluster:
        usual = completion(cluster.url, **ASK)
        prefill = psutil.Process(cluster.pid("prefill-0"))
        prefill.suspend()
        cluster.until(lambda: "prefill-0" not in cluster.nodes(), 20)
        alone = completion(cluster.url, **ASK)
        prefill.resume()
        cluster.until(lambda: "prefill-0" in cluster.nodes(), 20)
        after = completion(cluster.url, **ASK)
        readers = [answer["timing"]["prefill"]["node"] for answer in (usual, alone, after)]
        assert readers == ["prefill-0", "decode-0", "prefill-0"]
        assert (alone["timing"]["transfer_bytes"], alone["timing"]["attempts"]) == (0, 1)
        assert usual["choices"] == alone["choices"] == after["choices"]
        cluster.until_nothing_is_held()


def test_colocated_from_the_start(tiny: Path) -> None:
    args = (str(tiny), "--load-format", "dummy", "--kv-cache-memory", "64MiB", "--no-prefix-caching")
    with Cluster(*args) as apart:
        want = completion(apart.url, **ASK)
        yields = [psutil.Process(apart.pid(name)).nice() for name in ("prefill-0", "decode-0", "router")]
        assert yields == [15 if machine.cores_to_share(2) else 0, 0, 0]
    with Cluster(*args, "--prefill", "0") as together:
        assert sorted(together.nodes()) == ["decode-0"]
        got = completion(together.url, **ASK)
        assert got["choices"] == want["choices"]
        assert got["timing"]["prefill"]["node"] == "decode-0"
        together.until_nothing_is_held()
