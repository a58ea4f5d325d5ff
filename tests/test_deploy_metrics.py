"""The Grafana dashboard and the alerts ask only for metrics and labels that are there, and can be loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from router import metrics_reference

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/pagewire.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]
SCRAPED = {"instance", "job"}  # labels that Prometheus adds
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def known() -> dict[str, set[str]]:
    """Every series that can be asked for, and its labels."""
    found: dict[str, set[str]] = {}
    for family in metrics_reference.families():
        labels = set(getattr(family, "_labelnames", ())) | SCRAPED
        if family.type == "histogram":
            found |= {f"{family.name}_{part}": labels | {"le"} for part in ("bucket", "sum", "count")}
        else:
            found[metrics_reference.name_of(family)] = labels
    return found


EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": str(target["expr"])
    for panel in PANELS
    for target in panel["targets"]
} | {str(rule["alert"]): str(rule["expr"]) for rule in RULES}


@pytest.mark.parametrize("expression", list(EXPRESSIONS.values()), ids=list(EXPRESSIONS))
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    series = known()
    names = re.findall(r"[a-zA-Z_]\w*:\w+|\bup\b", expression)
    assert names
    assert set(names) - {"up"} <= set(series)
    labels = {label for name in names for label in series.get(name, SCRAPED)}
    asked = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression))
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        asked |= {label.strip() for label in group.split(",")}
    assert asked <= labels
    assert all(
        expression.count(opening) == expression.count(closing) for opening, closing in ("()", "{}", "[]")
    )


def test_quantiles_are_of_buckets_and_rates_of_what_counts() -> None:
    kinds = {metrics_reference.name_of(family): family.type for family in metrics_reference.families()}
    for expression in EXPRESSIONS.values():
        for name in re.findall(r"(?:rate|increase)\((pagewire:\w+)", expression):
            assert kinds.get(name) == "counter" or re.search(r"_(bucket|sum|count)$", name), name
        if "histogram_quantile" in expression:
            assert "_bucket" in expression
            assert "le)" in expression


def test_the_board_can_be_imported_anywhere() -> None:
    assert BOARD["uid"] == "pagewire"
    assert [v["name"] for v in BOARD["templating"]["list"] if v["type"] == "datasource"] == ["datasource"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_prometheus_is_told_where_a_router_is_and_which_rules_there_are() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "pagewire"
    assert [(DEPLOY / "prometheus" / name).exists() for name in config["rule_files"]] == [True]
