"""compose.yaml: valid, locked down, and with commands that exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deploy_commands
import jsonschema
import pytest
import redis
import yaml
from deploy_redis import RedisServer

from pagewire.secret import load_secret
from router.keys import read_keys

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["router", "prefill", "decode", "prefill-gpu", "decode-gpu"]
NODES = OURS[1:]


def until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.01)


def interpolated(word: str) -> str:
    """``word`` with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word)


def test_it_is_what_compose_reads() -> None:
    """Against the compose specification's schema, as check-jsonschema carries it."""
    found = importlib.util.find_spec("check_jsonschema")
    if found is None or found.origin is None:
        pytest.skip("check-jsonschema, which has the schema, is missing")
    schema = Path(found.origin).parent / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


def test_what_a_service_names_is_there() -> None:
    used = {kind: set[str]() for kind in ("secrets", "networks", "volumes")}
    for service in SERVICES.values():
        used["secrets"] |= set(service.get("secrets", []))
        used["networks"] |= set(service["networks"])
        mounted = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert all((ROOT / path).exists() for path in mounted if path.startswith("./"))
        used["volumes"] |= {name for name in mounted if not name.startswith("./")}
        assert set(service.get("depends_on", [])) <= set(SERVICES)
    assert used == {kind: set(COMPOSE[kind]) for kind in used}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(interpolated(service["user"]).partition(":")[0]) > 0
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    for volume in service.get("volumes", []):
        assert not volume.startswith(("/", "~", ".")) or re.fullmatch(r"\./deploy/[^:]+:[^:]+:ro", volume)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_and_its_health_is_known(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", interpolated(service["mem_limit"]))
    assert float(interpolated(str(service["cpus"]))) > 0
    assert 0 < service["pids_limit"] <= 512
    assert all(re.search(r"\bsize=\d+m\b", mount) for mount in service["tmpfs"])
    assert service["healthcheck"]["test"][0].startswith("CMD")
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_be_scaled(name: str) -> None:
    assert not {"container_name", "hostname"} & set(SERVICES[name])


def test_secrets_go_to_those_who_need_them() -> None:
    assert {name: service.get("secrets", []) for name, service in SERVICES.items()} == {
        "redis": ["redis_acl"],
        "router": ["cluster", "redis_password", "api_keys"],
        **{name: ["cluster", "redis_password"] for name in NODES},
        "prometheus": ["metrics_key"],
        "grafana": ["grafana_password"],
    }


def test_what_docker_inspect_shows_is_no_secret() -> None:
    shown = json.dumps({name: [s.get("environment"), s.get("command")] for name, s in SERVICES.items()})
    assert not re.search(r"requirepass|redis://[^/]*@|sk-", shown)
    passwords = set(re.findall(r'"(\w*(?:PASSWORD|SECRET|KEY|TOKEN)\w*)":', shown))
    assert {name for name in passwords if not name.endswith("FILE")} == {
        "HF_TOKEN",
        "GF_SECURITY_DISABLE_GRAVATAR",
    } & passwords


def test_only_http_is_published_and_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["router", "prometheus", "grafana"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert published["router"] == ["127.0.0.1:${PAGEWIRE_PORT:-8000}:8000"]


def test_redis_is_where_only_routers_and_nodes_are() -> None:
    assert SERVICES["redis"]["networks"] == ["cluster"]
    assert COMPOSE["networks"]["cluster"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "cluster" in service["networks"]} == {
        "redis",
        *OURS,
    }


def test_a_plain_up_starts_what_runs_on_cpus() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert [name for name, profile in profiles.items() if profile is None] == [
        "redis",
        "router",
        "prefill",
        "decode",
    ]
    assert {name for name, profile in profiles.items() if profile == ["gpu"]} == {"prefill-gpu", "decode-gpu"}
    for name in ("prefill-gpu", "decode-gpu"):
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_every_image_of_ours_is_a_stage_of_the_dockerfile() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE))
    assert {SERVICES[name]["build"]["target"] for name in OURS} == {"router", "worker", "worker-cuda"}
    assert {SERVICES[name]["build"]["target"] for name in OURS} <= stages


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_exists(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = SERVICES[name]
    deploy_commands.secrets_in(tmp_path)
    environment = {key: interpolated(value) for key, value in service["environment"].items()}
    words = [interpolated(word) for word in service["command"]]
    deploy_commands.options_of(words, environment, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", NODES)
def test_there_is_time_to_drain(name: str) -> None:
    (grace,) = [int(word.partition("=")[2]) for word in SERVICES[name]["command"] if "--grace" in word]
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= grace + 10


def init(folder: Path) -> str:
    """Run deploy/init.sh as if ``folder`` were the repository."""
    (folder / "deploy").mkdir(exist_ok=True)
    shutil.copy(ROOT / "deploy/init.sh", folder / "deploy")
    words = ["sh", "deploy/init.sh"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True, timeout=30).stdout


def test_init_makes_secrets_that_are_taken_and_keeps_what_is_there(tmp_path: Path) -> None:
    said, folder = init(tmp_path), tmp_path / "secrets"
    for secret in COMPOSE["secrets"].values():
        name = Path(interpolated(secret["file"])).name
        assert (folder / name).stat().st_mode & 0o037 == 0, name
    assert len(load_secret(folder / "cluster")) == 32
    names = read_keys(folder / "api.keys")
    assert set(names.values()) == {"me", "prometheus"}
    key, metrics = said.split()[-1], (folder / "metrics.key").read_text()
    assert {f"me: {key}", f"prometheus: {metrics}"} == set((folder / "api.keys").read_text().splitlines())
    users = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert int(users["UID"]) == folder.stat().st_uid > 0

    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert init(tmp_path) == said
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """redis with the very command of compose.yaml, but for where it listens and writes."""
    init(tmp_path)
    with RedisServer(SERVICES["redis"]["command"], tmp_path, tmp_path / "secrets/redis.acl") as server:
        yield server


def test_redis_keeps_records_and_obeys_nobody(redis_server: RedisServer) -> None:
    redis_server.keeps_records((redis_server.folder / "secrets/redis.password").read_text())


def test_the_health_of_redis_is_asked_with_what_it_answers(redis_server: RedisServer) -> None:
    """A client that does not know the password hears NOAUTH, and that is what the check looks for."""
    assert "NOAUTH" in SERVICES["redis"]["healthcheck"]["test"][1]
    with redis_server.client() as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_members_meet_in_redis(redis_server: RedisServer) -> None:
    """What its user may do is enough."""
    membership = pytest.importorskip("pagewire.membership.redis_registry")
    record = importlib.import_module("pagewire.membership.record")
    url = importlib.import_module("pagewire.membership.url").parse(
        redis_server.url((redis_server.folder / "secrets/redis.password").read_text())
    )
    seen: dict[str, set[str]] = {}

    def join(name: str) -> Any:
        mine = record.Record(
            cluster="default", kind="router", name=name, epoch="1", generation=0,
            address="tcp://10.0.0.1:7500", version="0.1.0", model="demo",
        )  # fmt: skip

        def see(records: list[Any]) -> None:
            seen[name] = {found.name for found in records}

        return membership.RedisRegistry(url, record.key_of(b"s" * 32), mine, ("router",), see)

    members = [join("a"), join("b")]
    try:
        until(lambda: seen == {"a": {"a", "b"}, "b": {"a", "b"}})
        members[0].leave()
        until(lambda: seen["b"] == {"b"})
    finally:
        for member in members:
            member.leave()
