"""kill -9 of each process with streams in flight: every stream ends, the node comes back, nothing leaks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster import Cluster, completion

pytestmark = pytest.mark.e2e

STREAMS = 16
LONG: dict[str, Any] = {"max_tokens": 160, "ignore_eos": True, "temperature": 0.8, "return_token_ids": True}
PROMPT = list(range(1000, 1200))


@dataclass
class Outcome:
    """How one stream ended, as its client saw it."""

    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    error: str | None = None  # the code of an error event, "http NNN" or "connection"
    ended_at: float = 0.0


def stream(url: str, seed: int, outcome: Outcome, started: threading.Semaphore) -> Outcome:
    body, begun = LONG | {"prompt": PROMPT, "seed": seed, "stream": True}, False
    try:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as reply:
            if reply.status_code != 200:
                reply.read()
                outcome.error = f"http {reply.status_code}"
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    outcome.error = event["error"]["code"]
                    continue
                for choice in event["choices"]:
                    outcome.tokens += choice.get("token_ids") or []
                    outcome.finish = choice["finish_reason"] or outcome.finish
                if len(outcome.tokens) >= 5 and not begun:
                    begun = True
                    started.release()
    except httpx.TransportError:
        outcome.error = "connection"
    outcome.ended_at = time.monotonic()
    return outcome


@pytest.fixture(scope="module", params=["8", "60"], ids=["recovery 8 s", "recovery 60 s"])
def cluster(tiny: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(
        *(str(tiny), "--load-format", "dummy", "--kv-cache-memory", "64MiB"),
        *("--recovery-timeout", request.param),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(cluster: Cluster) -> list[list[int]]:
    """The same 16 streams with no fault."""
    with ThreadPoolExecutor(STREAMS) as pool:
        idle = threading.Semaphore(0)
        return [o.tokens for o in pool.map(lambda s: stream(cluster.url, s, Outcome(), idle), range(STREAMS))]


def kill_under_load(cluster: Cluster, victim: str) -> tuple[list[Outcome], float]:
    """Kill ``victim`` once half of 16 streams have begun. How each ended, and when the last one did."""
    outcomes = [Outcome() for _ in range(STREAMS)]
    started = threading.Semaphore(0)
    with ThreadPoolExecutor(STREAMS) as pool:
        futures: list[Future[Outcome]] = [
            pool.submit(stream, cluster.url, seed, outcome, started) for seed, outcome in enumerate(outcomes)
        ]
        for _ in range(STREAMS // 2):
            assert started.acquire(timeout=60)
        in_flight = sum(not future.done() for future in futures)
        dead = cluster.kill(victim)
        killed_at = time.monotonic()
        wait(futures, 120)
    assert in_flight >= STREAMS // 2, "the fault hit too few streams"
    cluster.until(cluster.ready, 60)
    assert cluster.pid(victim) != dead
    assert completion(cluster.url, prompt=PROMPT, max_tokens=4)["usage"]["completion_tokens"] == 4
    cluster.until_nothing_is_held()
    return outcomes, max(outcome.ended_at for outcome in outcomes) - killed_at


@pytest.mark.parametrize("victim", ["decode-0", "prefill-0"])
def test_a_killed_node_changes_no_token(cluster: Cluster, oracle: list[list[int]], victim: str) -> None:
    """With one node of a kind the requests wait for its return, and go on where they were, or end by name."""
    patient = "60" in cluster.args
    outcomes, last = kill_under_load(cluster, victim)
    assert patient or last < 10
    for outcome, expected in zip(outcomes, oracle, strict=True):
        if outcome.error is None or patient:
            assert (outcome.tokens, outcome.finish) == (expected, "length")
        else:
            assert outcome.error == "worker_lost"
            assert outcome.tokens == expected[: len(outcome.tokens)]


def test_a_killed_router_breaks_its_streams_and_leaves_nothing(cluster: Cluster) -> None:
    outcomes, last = kill_under_load(cluster, "router")
    assert last < 10
    assert {outcome.error for outcome in outcomes} <= {"connection", None}
    assert any(outcome.error == "connection" for outcome in outcomes)


def test_a_killed_supervisor_takes_its_children_along(tiny: Path) -> None:
    with Cluster(str(tiny), "--load-format", "dummy", "--kv-cache-memory", "64MiB") as cluster:
        cluster.note_children()
        assert len(cluster.children) == 3
        cluster.process.kill()
        cluster.process.wait(5)
