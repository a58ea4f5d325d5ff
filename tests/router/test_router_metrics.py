"""What /metrics says, read as Prometheus reads it, against what was served."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import World
from prometheus_client.parser import text_string_to_metric_families as parse

from router import metrics_reference

ROOT = Path(__file__).resolve().parents[2]


class Page(dict[str, float]):
    """Values by ``name`` or ``name{label=value,...}``."""

    def __init__(self, text: str) -> None:
        super().__init__()
        for family in parse(text):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                self[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value

    def of(self, name: str) -> float:
        return self[f"pagewire:{name}"]


async def page(world: World) -> Page:
    return Page((await world.http.get("/metrics")).text)


async def test_the_page_agrees_with_what_was_served(world: World) -> None:
    replies = [(await world.chat(timing=True)).json(), (await world.complete(n=2, timing=True)).json()]
    found = await page(world)
    prompt = sum(reply["usage"]["prompt_tokens"] for reply in replies)
    answers = sum(reply["usage"]["completion_tokens"] for reply in replies)
    moved = sum(reply["timing"]["transfer_bytes"] for reply in replies)
    cached = sum(reply["usage"]["prompt_tokens_details"]["cached_tokens"] for reply in replies)
    assert found.of("requests_taken_total") == found.of("e2e_request_latency_seconds_count") == 2
    ends = [choice["finish_reason"] for reply in replies for choice in reply["choices"]]
    assert sorted(ends) == ["length", "stop", "stop"]
    assert found.of("request_success_total{finished_reason=stop}") == 2
    assert found.of("request_success_total{finished_reason=length}") == 1
    assert found.of("prompt_tokens_total") == found.of("request_prompt_tokens_sum") == prompt
    assert found.of("generation_tokens_total") == found.of("request_generation_tokens_sum") == answers
    assert found.of("prefix_cache_queries_total") == prompt
    assert found.of("prefix_cache_hits_total") == cached
    assert found.of("handoff_bytes_total") == moved == 2 * 640
    assert found.of("handoff_exposed_seconds_count") == 2
    assert found.of("time_to_first_token_seconds_count") == 2
    assert found.of("time_to_second_token_seconds_count") == 3
    assert found.of("inter_token_latency_seconds_count") == answers - 3


async def test_parts_of_a_request_are_those_of_its_timing(world: World) -> None:
    timing = (await world.chat(timing=True)).json()["timing"]
    found = await page(world)
    assert found.of("request_queue_time_seconds_sum") == pytest.approx(timing["queue_ms"] / 1000)
    assert found.of("request_prefill_time_seconds_sum") == pytest.approx(timing["prefill_ms"] / 1000)
    assert found.of("handoff_exposed_seconds_sum") == pytest.approx(timing["transfer_ms"]["exposed"] / 1000)
    decoding = (timing["total_ms"] - timing["ttft_ms"]) / 1000
    assert found.of("request_decode_time_seconds_sum") == pytest.approx(decoding, abs=1e-3)


async def test_http_requests_count_by_route_and_never_by_what_was_asked(locked: World) -> None:
    key = {"authorization": "Bearer sk-right"}
    await locked.http.get("/v1/models/other", headers=key)
    await locked.http.get("/v1/models/nobody", headers=key)
    await locked.http.get("/wp-admin.php", headers=key)
    await locked.http.get("/v1/models")
    found = Page((await locked.http.get("/metrics", headers=key)).text)
    counts = {name: value for name, value in found.items() if name.startswith("pagewire:http_requests_total")}
    assert counts == {
        "pagewire:http_requests_total{route=/v1/models/{name:path},status=200}": 1,
        "pagewire:http_requests_total{route=/v1/models/{name:path},status=404}": 1,
        "pagewire:http_requests_total{route=other,status=404}": 1,
        "pagewire:http_requests_total{route=other,status=401}": 1,
    }


async def test_what_nodes_report_has_names_of_its_own(world: World) -> None:
    figures = {"pages_cached": 3.0, "transfer_late": 2.0, "transfer_done": 7.0, "new_thing": 1.0}
    world.cluster.beat("decode-0", **figures)
    await world.until(lambda: world.service.fleet.nodes["decode-0"].load.running)  # type: ignore[index]
    found, node = await page(world), "node=decode-0"
    assert found.of(f"kv_pages{{{node},role=decode,state=cached}}") == 3
    assert found.of(f"handoff_frames_refused_total{{{node},reason=late,role=decode}}") == 2
    assert found.of(f"handoffs_total{{{node},outcome=done,role=decode}}") == 7
    assert found.of(f"node_gauge{{name=new_thing,{node},role=decode}}") == 1
    assert found.of(f"kv_cache_usage_perc{{{node},role=decode}}") == pytest.approx(0.1)


async def test_a_metric_that_is_shown_is_documented(world: World) -> None:
    await world.chat()
    world.cluster.beat("decode-0", pages_free=1.0)
    known = {family.name for family in metrics_reference.families()}
    assert {family.name for family in parse((await world.http.get("/metrics")).text)} <= known


def test_the_documentation_is_up_to_date() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics_reference.page()
