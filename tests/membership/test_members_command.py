"""``pagewire members``, and the flags by which programs find their directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, runner
from members import KEY, ROUTER_A, SECRET, member
from real_redis import RedisServer, free_port

from pagewire.cli import addresses, roles
from pagewire.membership.record import sign
from pagewire.node_options import NodeOptions
from router.options import RouterOptions


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_bytes(SECRET)
    return str(path)


@pytest.fixture
def pagewire(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], secret: str) -> Run:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("PAGEWIRE_CLUSTER_SECRET_FILE", secret)
    return runner(monkeypatch, capsys)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(roles, "run", found.append)
    monkeypatch.setattr("os.environ", dict(os.environ))
    return found


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def test_it_lists_who_is_there_and_who_is_not_believed(server: RedisServer, pagewire: Run) -> None:
    with member(server, ROUTER_A) as one:
        one.sees("a")
        server.do("SET", "pagewire:{c}:decode:\x1b[2J", sign(ROUTER_A, KEY))
        server.do("SADD", "pagewire:{c}:names:decode", "\x1b[2J")
        code, out, _ = pagewire("members", "--registry", server.url, "--cluster", "c", "--json")
        router, other = json.loads(out)
        assert (code, router["name"], router["address"], router["refused"]) == (0, "a", ROUTER_A.address, "")
        assert 10 < router["ttl_s"] <= 15
        assert other["refused"] == "it was signed for another key"
        code, out, _ = pagewire("members", "--registry", server.url, "--cluster", "c")
    assert code == 0
    assert "tcp://10.0.0.1:7500" in out
    assert "refused: it was signed for another key" in out
    assert "\x1b[2J" not in out


def test_nobody_is_there(server: RedisServer, pagewire: Run) -> None:
    assert pagewire("members", "--registry", server.url) == (0, "nobody is in default\n", "")


def test_a_redis_that_does_not_answer_is_an_error_of_one_line(pagewire: Run) -> None:
    port = free_port()
    code, out, err = pagewire("members", "--registry", f"redis://127.0.0.1:{port}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"pagewire: redis://127.0.0.1:{port}/0 does not answer: ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("members",), "--registry: say which redis"),
        (("prefill",), "--router: give the --listen address of a router, or --registry"),
        (
            ("decode", "--router=tcp://127.0.0.1:1", "--registry=redis://h"),
            "--router and --registry exclude each",
        ),
        (("prefill", "--registry=http://h"), "--registry: write it as redis://HOST:PORT/DB"),
        (("prefill", "--registry=redis://h?no_such=1"), "--registry: redis's client does not know an option"),
        (("prefill", "--registry=redis://h", "--cluster=a b"), "--cluster: a name has up to 128 letters"),
        (
            ("router", "--port=0", "--advertise=tcp://h:1"),
            "--advertise is for the directory: it needs --registry",
        ),
        (
            ("router", "--port=0", "--registry=redis://h", "--advertise=tcp://0.0.0.0:1"),
            "--advertise tcp://0.0.0.0:1: nodes",
        ),
        (
            ("router", "--port=0", "--registry=redis://h", "--advertise=h:1"),
            "--advertise h:1: write it as tcp://HOST:PORT",
        ),
    ],
)
def test_flags_that_do_not_go_together(pagewire: Run, argv: tuple[str, ...], message: str) -> None:
    code, out, err = pagewire(*argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"pagewire: {message}")


def test_a_password_comes_by_the_environment_or_a_file_and_not_by_the_command_line(
    pagewire: Run, started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = "redis://:hush@127.0.0.1:1/0"
    code, _, err = pagewire("prefill", "--registry", url)
    assert (code, "everybody on this host" in err, "hush" in err, started) == (2, True, False, [])
    monkeypatch.setenv("PAGEWIRE_REGISTRY", url)
    pagewire("prefill")
    monkeypatch.delenv("PAGEWIRE_REGISTRY")
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text("hush\n")
    pagewire("prefill", "--registry", "redis://127.0.0.1:1/0", "--registry-password-file", str(path))
    assert [options.registry for options in started] == [url, url]
    assert "hush" not in repr(started)


def test_nodes_and_routers_of_a_directory(
    pagewire: Run, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_outward", lambda far: f"10.0.0.7-to-{far.hostname}")
    monkeypatch.setenv("PAGEWIRE_REGISTRY", "redis://h:1")
    pagewire("router", "--listen=tcp://0.0.0.0:0", "--port=0", "--cluster=c")
    pagewire("router", "--listen=tcp://0.0.0.0:7500", "--port=0", "--advertise=tcp://a:1")
    pagewire("decode", "--handoff=tcp://0.0.0.0:7600")
    first, second, node = started
    assert isinstance(first, RouterOptions)
    assert isinstance(node, NodeOptions)
    assert (first.registry, first.cluster, first.advertise) == ("redis://h:1", "c", "tcp://10.0.0.7-to-h:0")
    assert (second.cluster, second.advertise) == ("default", "tcp://a:1")
    assert (node.routers, node.registry, node.handoff) == ((), "redis://h:1", "tcp://10.0.0.7-to-h:7600")
