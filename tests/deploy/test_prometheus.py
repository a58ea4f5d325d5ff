"""What promtool says of Prometheus' configuration, and what the scaling queries give for made-up series."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_files import objects

ROOT = Path(__file__).resolve().parents[2]
PROMTOOL = os.environ.get("PAGEWIRE_PROMTOOL") or shutil.which("promtool")

pytestmark = pytest.mark.skipif(
    not PROMTOOL, reason="promtool is missing: it is not on PATH, and PAGEWIRE_PROMTOOL does not name it"
)

QUERIES = {
    f"{made['metadata']['labels']['app.kubernetes.io/component']} {number}": trigger["metadata"]["query"]
    for made in objects("full")
    if made["kind"] == "ScaledObject"
    for number, trigger in enumerate(made["spec"]["triggers"])
}


def promtool(*words: str | Path) -> str:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["prometheus.yml", "compose.yml"])
def test_the_configuration_and_its_alerts_are_taken(name: str) -> None:
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", ROOT / "deploy/prometheus" / name)
    assert "SUCCESS" in promtool("check", "rules", ROOT / "deploy/prometheus/alerts.yml")


def line(name: str, values: str, /, **labels: str) -> dict[str, str]:
    told = {"namespace": "llm", **labels}
    return {"series": name + "{" + ",".join(f'{k}="{v}"' for k, v in told.items()) + "}", "values": values}


def from_both_routers(name: str, values: str, /, **labels: str) -> list[dict[str, str]]:
    return [line(name, values, instance=router, **labels) for router in ("a", "b")]


def node(name: str, role: str) -> dict[str, str]:
    return {"node": name, "role": role}


BUSY = [
    *from_both_routers("pagewire:queued_tokens", "1000x40", **node("p0", "prefill")),
    *from_both_routers("pagewire:queued_tokens", "500x40", **node("p1", "prefill")),
    *from_both_routers("pagewire:queued_tokens", "7000x40", **node("d0", "decode")),
    *from_both_routers("pagewire:node_gauge", "2x40", name="read_token_ms", **node("p0", "prefill")),
    *from_both_routers("pagewire:node_gauge", "2x40", name="read_token_ms", **node("p1", "prefill")),
    *from_both_routers("pagewire:router_queued_requests", "3x40"),
    *from_both_routers("pagewire:request_prefill_time_seconds_sum", "0+3x40"),
    *from_both_routers("pagewire:request_prefill_time_seconds_count", "0+6x40"),
    *from_both_routers("pagewire:prompt_tokens_total", "0+1500x40"),
    *from_both_routers("pagewire:prefix_cache_hits_total", "0+300x40"),
    *from_both_routers("pagewire:inter_token_latency_seconds_bucket", "0+90x40", le="0.02"),
    *from_both_routers("pagewire:inter_token_latency_seconds_bucket", "0+100x40", le="0.04"),
    *from_both_routers("pagewire:inter_token_latency_seconds_bucket", "0+100x40", le="+Inf"),
    *from_both_routers("pagewire:kv_cache_usage_perc", "0.9x40", **node("d0", "decode")),
    *from_both_routers("pagewire:kv_cache_usage_perc", "0.5x40", **node("d1", "decode")),
    *from_both_routers("pagewire:kv_cache_usage_perc", "0.7x40", **node("p0", "prefill")),
]
AT_REST = [series | {"values": "0x40" if "_ms" not in series["series"] else "2x40"} for series in BUSY]


@pytest.mark.parametrize(
    ("query", "series", "value"),
    [
        ("prefill 0", BUSY, 1.5 * 2 + 6 * 0.5),  # 1,500 tokens in two nodes, six requests in two routers
        ("prefill 1", BUSY, 2 * (1500 - 300) / 15 * 2 / 1000),
        ("decode 0", BUSY, 0.03),
        ("decode 1", BUSY, 0.9 + 0.5),
        *((query, AT_REST, 0) for query in QUERIES),
        *((query, [], 0) for query in QUERIES),
    ],
)
def test_a_query_gives(query: str, series: list[Any], value: float, tmp_path: Path) -> None:
    expected = {
        "expr": f"round({QUERIES[query]}, 0.001)",
        "eval_time": "9m",
        "exp_samples": [{"labels": "{}", "value": value}],
    }
    test = {"interval": "15s", "input_series": series, "promql_expr_test": [expected]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", tmp_path / "test.yml")
