"""What operators see of a real cluster: logs without a word of what was said, metrics that add up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster import Cluster, completion
from prometheus_client.parser import text_string_to_metric_families as parse
from tiny import LLAMA

pytestmark = pytest.mark.e2e

TOKEN_BYTES = (
    2 * LLAMA["num_hidden_layers"] * LLAMA["num_key_value_heads"] * LLAMA["head_dim"] * 2
)  # bfloat16
MARK = "xylophone"
CHATS = "/v1/chat/completions"
SAID: list[tuple[str, Any]] = [
    (CHATS, {"messages": [{"role": "user", "content": MARK}], "max_tokens": 4}),
    (
        CHATS,
        {"messages": [{"role": "user", "content": f"\x1b[31m\n{MARK}"}], "stream": True, "max_tokens": 4},
    ),
    (CHATS, {"messages": [{"role": MARK, "content": [{"type": MARK}]}]}),
    (
        CHATS,
        {"messages": [{"role": "user", "content": "x"}], "stop": [MARK], "user": MARK, "cache_salt": MARK},
    ),
    (CHATS, {"messages": [{"role": "user", "content": "x"}], "temperature": MARK}),
    (CHATS, {"messages": [{"role": "user", "content": MARK * 9000}]}),
    (CHATS, {"messages": [{"role": "user", "content": "x"}], "model": MARK, MARK: MARK}),
    ("/v1/completions", {"prompt": [MARK, MARK], "echo": True, "logprobs": 1, "max_tokens": 2}),
    ("/tokenize", {"prompt": MARK}),
    (f"/{MARK}?{MARK}={MARK}", {}),
]


@pytest.fixture(scope="module")
def cluster(tiny: Path) -> Iterator[Cluster]:
    with Cluster(
        str(tiny), "--load-format", "dummy", "--log-level", "debug", "--log-format", "json"
    ) as running:
        yield running


def requests_in(log: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == "request"]


def test_no_level_of_the_log_tells_what_was_said(cluster: Cluster) -> None:
    headers = {"x-request-id": MARK, "user-agent": MARK, "traceparent": MARK}
    with httpx.Client(base_url=cluster.url, timeout=60, headers=headers) as client:
        answers = [client.post(path, json=body).status_code for path, body in SAID]
        answers.append(client.post(CHATS, content=f'{{"{MARK}": {MARK}').status_code)
    assert 200 in answers
    assert 400 in answers
    assert 404 in answers
    cluster.until(lambda: len(requests_in(cluster.output())) >= answers.count(200), 10)
    assert MARK not in cluster.output()


def test_each_line_of_the_log_is_an_object_of_its_process(cluster: Cluster) -> None:
    """But for what is said to whoever started it."""
    lines = [line for line in cluster.output().splitlines() if line.startswith("{")]
    assert {json.loads(line)["process"] for line in lines} >= {"router"}
    assert not re.search(r"^\[", cluster.output(), re.MULTILINE)


def values(cluster: Cluster) -> dict[str, float]:
    page = httpx.get(f"{cluster.url}/metrics").text
    return {s.name: s.value for family in parse(page) for s in family.samples if not s.labels}


def test_bytes_of_handoffs_are_those_of_the_pages(cluster: Cluster) -> None:
    """Every token of every prompt is sent once: these begin differently, so no node has any of them."""
    before = values(cluster)

    def grown(name: str) -> float:
        return values(cluster)[f"pagewire:{name}"] - before[f"pagewire:{name}"]

    replies = [
        completion(cluster.url, prompt=[number + 5] * length, max_tokens=3, ignore_eos=True)
        for number, length in enumerate((1, 17, 64, 300))
    ]
    # what nodes report comes later
    for name in ("handoff_exposed_seconds_count", "request_prompt_tokens_count"):
        cluster.until(lambda name=name: grown(name) == len(replies), 20)
    tokens = sum(reply["usage"]["prompt_tokens"] for reply in replies)
    assert grown("handoff_bytes_total") == tokens * TOKEN_BYTES
    assert grown("handoff_exposed_seconds_count") == len(replies)
    assert grown("requests_taken_total") == grown("request_prompt_tokens_count") == len(replies)
    assert grown("request_generation_tokens_sum") == 3 * len(replies)
    assert grown("prefix_cache_queries_total") == tokens


def test_the_nodes_count_the_same_bytes(cluster: Cluster) -> None:
    cluster.until_nothing_is_held()
    page = httpx.get(f"{cluster.url}/metrics").text
    moved = {
        sample.labels["role"]: sample.value
        for family in parse(page)
        for sample in family.samples
        if sample.name == "pagewire:node_handoff_bytes_total"
    }
    assert moved["prefill"] == moved["decode"] == values(cluster)["pagewire:handoff_bytes_total"] > 0
