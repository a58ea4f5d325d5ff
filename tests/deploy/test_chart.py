"""The Helm chart by its golden files: valid objects, locked down, with commands and metrics that exist.

``test_chart_render.py`` holds that helm renders these files from the chart.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import chart_files
import deploy_commands
import pytest
import yaml
from chart_files import SETS, Object, container, objects, pods
from deploy_redis import RedisServer

import pagewire
from router import metrics_reference

KUBERNETES = ("1.27", "1.31", "1.34")
CUSTOM = {"ScaledObject", "PodMonitor"}  # their schemas come with KEDA and the Prometheus operator
PODS = [(name, component) for name in SETS for component in pods(name)]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", SETS)
def test_the_objects_are_what_kubernetes_takes(name: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    for made in objects(name):
        if made["kind"] not in CUSTOM:
            validate.validate(made, version, strict=True)


def test_schemas_for_kubernetes_refuse_what_is_wrong() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    (first, *_) = [made for made in objects("default") if made["kind"] == "Deployment"]
    first["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(first, KUBERNETES[-1], strict=True)


def test_the_sets_of_values_show_everything() -> None:
    kinds = {made["kind"] for name in SETS for made in objects(name)}
    assert kinds >= CUSTOM | {"Deployment", "Service", "Secret", "NetworkPolicy", "PodDisruptionBudget"}
    assert {"HorizontalPodAutoscaler"} <= kinds


@pytest.mark.parametrize(("name", "component"), PODS)
def test_a_pod_has_no_rights_that_it_does_not_need(name: str, component: str) -> None:
    pod, program = pods(name)[component]["spec"], container(pods(name)[component])
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert program["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert program["resources"]["limits"]["memory"] or component == "decode"


@pytest.mark.parametrize("name", SETS)
def test_secrets_go_to_those_who_need_them(name: str) -> None:
    entries = {
        component: {
            item["key"]
            for volume in pod["spec"]["volumes"]
            for item in volume.get("secret", {"items": ()})["items"]
        }
        for component, pod in pods(name).items()
    }
    password = {"redis-password"} if "redis" in entries else set()
    assert entries.pop("redis", password) == password
    assert entries == {
        "router": {"cluster-secret", "api-keys"} | password,
        "prefill": {"cluster-secret"} | password,
        "decode": {"cluster-secret"} | password,
    }


@pytest.mark.parametrize("name", SETS)
def test_what_is_asked_of_the_secret_is_in_it(name: str) -> None:
    made = [made for made in objects(name) if made["kind"] == "Secret"]
    if not made:
        pytest.skip("somebody else's secret")
    asked = set(re.findall(r"key: ([a-z-]+)", yaml.safe_dump(list(pods(name).values()))))
    assert asked <= set(made[0]["data"])
    names = set(
        re.findall(r"(?:secretName|secretKeyRef:\n\s+key: \S+\n\s+name): (\S+)", yaml.safe_dump(pods(name)))
    )
    assert names == {made[0]["metadata"]["name"]}


@pytest.mark.parametrize("name", SETS)
def test_selectors_meet_their_pods_and_no_others(name: str) -> None:
    labels = {component: pod["metadata"]["labels"] for component, pod in pods(name).items()}
    for made in objects(name):
        spec = made.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if not selector:
            continue
        wanted = selector.get("matchLabels", selector)
        met = [component for component, has in labels.items() if wanted.items() <= has.items()]
        assert met == [made["metadata"]["labels"]["app.kubernetes.io/component"]], made["kind"]


@pytest.mark.parametrize("name", SETS)
def test_ports_of_services_policies_and_probes_are_open(name: str) -> None:
    ports = {
        component: {port["name"]: port["containerPort"] for port in container(pod).get("ports", [])}
        for component, pod in pods(name).items()
    }
    for component, pod in pods(name).items():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            told = container(pod).get(probe, {})
            port = (told.get("httpGet") or told.get("tcpSocket") or {}).get("port")
            assert port is None or port in ports[component]
    for made in objects(name):
        component = made["metadata"]["labels"].get("app.kubernetes.io/component")
        if made["kind"] == "Service":
            assert {port["targetPort"] for port in made["spec"]["ports"]} <= set(ports[component])
        if made["kind"] == "NetworkPolicy":
            allowed = {port["port"] for rule in made["spec"]["ingress"] for port in rule["ports"]}
            assert allowed >= set(ports[component].values())


def test_only_http_is_open_to_strangers() -> None:
    for made in objects("default"):
        if made["kind"] == "NetworkPolicy":
            strangers = [
                port["port"]
                for rule in made["spec"]["ingress"]
                if "from" not in rule
                for port in rule["ports"]
            ]
            component = made["metadata"]["labels"]["app.kubernetes.io/component"]
            assert strangers == ([8000] if component == "router" else []), component


@pytest.mark.parametrize(("name", "component"), [pod for pod in PODS if pod[1] != "redis"])
def test_a_pod_runs_a_command_that_exists(
    name: str, component: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = container(pods(name)[component])
    environment = {each["name"]: each["value"] for each in program["env"] if "value" in each}
    if name != "external":  # its URL is in the secret
        assert "PAGEWIRE_REGISTRY" in environment
    deploy_commands.secrets_in(tmp_path)
    environment.setdefault("PAGEWIRE_REGISTRY", "redis://redis:6379/0")
    deploy_commands.options_of(program["args"], environment, tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "component"), PODS)
def test_variables_in_commands_are_set_before(name: str, component: str) -> None:
    program = container(pods(name)[component])
    known: set[str] = set()
    for each in program.get("env", []):
        assert set(re.findall(r"\$\((\w+)\)", each.get("value", ""))) <= known, each
        known.add(each["name"])
    assert set(re.findall(r"\$\(([A-Z_]+)\)", " ".join(program["args"]))) <= known


@pytest.mark.parametrize("name", SETS)
def test_there_is_time_to_drain(name: str) -> None:
    values = yaml.safe_load((chart_files.CHART / "values.yaml").read_text())
    for component, pod in pods(name).items():
        if component == "redis":
            continue
        grace = [
            int(word.partition("=")[2]) for word in container(pod)["args"] if word.startswith("--grace=")
        ]
        wanted = grace[0] if grace else values["router"]["graceSeconds"] + values["router"]["preStopSeconds"]
        assert pod["spec"]["terminationGracePeriodSeconds"] >= wanted + 10


def test_who_scales_also_counts() -> None:
    """No replicas where an autoscaler sets them: an update of the release would reset its work."""
    for name in SETS:
        scaled = {
            made["spec"]["scaleTargetRef"]["name"]
            for made in objects(name)
            if "scaleTargetRef" in made.get("spec", {})
        }
        for made in objects(name):
            if made["kind"] == "Deployment":
                assert ("replicas" in made["spec"]) != (made["metadata"]["name"] in scaled)


def test_gpus_are_asked_for_where_they_are_wanted() -> None:
    gpus = {
        (name, component): container(pod)["resources"].get("limits", {}).get("nvidia.com/gpu")
        for name in SETS
        for component, pod in pods(name).items()
    }
    assert {pod: count for pod, count in gpus.items() if count} == {
        ("gpu", "prefill"): 1,
        ("gpu", "decode"): 2,
        ("external", "decode"): 1,
    }
    cuda = {pod for pod in PODS if "cuda" in container(pods(pod[0])[pod[1]])["image"]}
    assert cuda == {pod for pod, count in gpus.items() if count}


def test_redis_keeps_records_and_obeys_nobody(tmp_path: Path) -> None:
    """By the command that the chart gives it."""
    program = container(pods("default")["redis"])
    (tmp_path / "password").write_text("word")
    with RedisServer([*program["command"], *program["args"]], tmp_path, tmp_path / "password") as server:
        server.keeps_records("word")


# --- what scaling asks Prometheus ---------------------------------------------------------------------------

TRIGGERS: dict[str, Object] = {
    f"{made['metadata']['labels']['app.kubernetes.io/component']} {number}": trigger
    for made in objects("full")
    if made["kind"] == "ScaledObject"
    for number, trigger in enumerate(made["spec"]["triggers"])
}


def series() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in metrics_reference.families():
        labels = set(getattr(family, "_labelnames", ())) | {"namespace"}
        names = [metrics_reference.name_of(family)]
        if family.type == "histogram":
            names = [f"{family.name}_{part}" for part in ("bucket", "sum", "count")]
            labels |= {"le"}
        found |= dict.fromkeys(names, labels)
    return found


@pytest.mark.parametrize("trigger", TRIGGERS.values(), ids=list(TRIGGERS))
def test_scaling_asks_for_what_there_is(trigger: dict[str, Any]) -> None:
    query, known = trigger["metadata"]["query"], series()
    asked = re.findall(r"(pagewire:\w+)\{([^}]*)\}", query)
    assert {name for name, _ in asked} == set(re.findall(r"pagewire:\w+", query)) <= set(known)
    for name, matchers in asked:
        assert set(re.findall(r"(\w+)=", matchers)) <= known[name]
        assert 'namespace="llm"' in matchers
    assert float(trigger["metadata"]["threshold"]) > 0
    assert trigger["metricType"] in ("AverageValue", "Value")


def test_both_roles_are_scaled() -> None:
    assert {name.split()[0] for name in TRIGGERS} == {"prefill", "decode"}


# --- the chart itself ---------------------------------------------------------------------------------------


def test_one_version() -> None:
    chart = yaml.safe_load((chart_files.CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == pagewire.__version__


def test_what_the_schema_allows_stands_in_the_values() -> None:
    """helm lint holds the other direction."""
    values = yaml.safe_load((chart_files.CHART / "values.yaml").read_text())
    schema = json.loads((chart_files.CHART / "values.schema.json").read_text())
    parts = {
        name: part
        for name, part in schema["properties"].items()
        if name not in ("global", "prefill", "decode")
    }
    assert _missing(parts, values, schema["definitions"]) == []


def _missing(properties: Object, values: Object, definitions: Object) -> list[str]:
    found = []
    for name, part in properties.items():
        part = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if name not in values:
            found.append(name)
        elif "properties" in part:
            found += _missing(part["properties"], values[name], definitions)
    return found
