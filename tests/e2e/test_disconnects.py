"""Clients that hang up: in the queue, while the prompt is read, or at a random token. Nothing stays held."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cluster import Cluster, completion

from pagewire.rng import uniform

pytestmark = pytest.mark.e2e

ABORTED = 200


def hang_up(url: str, number: int) -> int:
    """Start a stream and leave after some tokens, or, for every fourth, before the first. Tokens seen."""
    leave_after = 0 if number % 4 == 0 else int(uniform(5, 0, number) * 60)
    prompt = [1000 + number, *range(1000, 1000 + int(uniform(6, 0, number) * 900))]
    body = {"prompt": prompt, "max_tokens": 400, "ignore_eos": True, "stream": True, "return_token_ids": True}
    seen = 0
    client = httpx.Client(timeout=0.05 if leave_after == 0 else 60)
    with (
        contextlib.suppress(httpx.TimeoutException),
        client,
        client.stream("POST", f"{url}/v1/completions", json=body | {"n": 1 + number % 2}) as reply,
    ):
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                seen += sum(len(c.get("token_ids") or []) for c in json.loads(line[6:])["choices"])
            if seen > leave_after:
                break
    return seen


def test_two_hundred_aborted_streams_leave_nothing(tiny: Path) -> None:
    with Cluster(
        *(str(tiny), "--load-format", "dummy", "--kv-cache-memory", "16MiB", "--max-num-batched-tokens", "64")
    ) as cluster:
        completion(cluster.url, prompt=[1000, 1001], max_tokens=4)
        cluster.until_nothing_is_held()
        before = cluster.descriptors()
        with ThreadPoolExecutor(16) as pool:
            seen = list(pool.map(lambda number: hang_up(cluster.url, number), range(ABORTED)))
        assert sum(count == 0 for count in seen) >= ABORTED // 8
        assert sum(0 < count < 400 for count in seen) >= ABORTED // 2
        cluster.until_nothing_is_held()
        after = cluster.descriptors()
        for name, (files, threads) in after.items():
            assert files <= before[name][0] + 2
            assert threads <= before[name][1] + 2
        assert completion(cluster.url, prompt=[1000, 1001], max_tokens=4)["usage"]["completion_tokens"] == 4
