"""What helm makes of the chart. PAGEWIRE_GOLDEN=write writes the golden files anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chart_files import CHART, HELM, NO_HELM, SETS, golden_of, helm, render, values_of

pytestmark = pytest.mark.skipif(not HELM, reason=NO_HELM)


@pytest.mark.parametrize("name", SETS)
def test_the_chart_renders_what_it_did(name: str) -> None:
    rendered = render(name)
    if os.environ.get("PAGEWIRE_GOLDEN") == "write":
        golden_of(name).write_text(rendered)
    assert rendered == golden_of(name).read_text()


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_to_complain_about(name: str) -> None:
    done = helm("lint", "--strict", CHART, "--values", values_of(name))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("modell=demo", "modell"),
        ("nodes.gpu.enable=true", "enable"),
        ("registry.url=http://redis", "registry"),
        ("autoscaling.decode.kvUsage=80", "kvUsage"),
        ("router.replicas=many", "replicas"),
        ("redis.enabled=false", "registry.url or secrets.existing"),
        ("autoscaling.enabled=true", "autoscaling.prometheus is needed"),
    ],
)
def test_a_wrong_value_is_named(setting: str, complaint: str) -> None:
    done = helm("template", "chat", CHART, "--set", setting)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_what_is_drawn_is_long_and_new_each_time() -> None:
    drawn = [helm("template", "chat", CHART, "--show-only", "templates/secret.yaml").stdout for _ in range(2)]
    assert drawn[0] != drawn[1]
    assert len(drawn[0]) > 400


def test_the_golden_files_are_those_of_the_sets() -> None:
    assert sorted(path.stem for path in Path(golden_of("default")).parent.glob("*.yaml")) == SETS
