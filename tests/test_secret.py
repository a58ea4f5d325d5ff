from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from pagewire.errors import ConfigError
from pagewire.secret import apply_client, apply_server, key_pair, load_secret, require_for, secret_for


def _file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_secret_file_is_read_whole(tmp_path: Path) -> None:
    assert load_secret(_file(tmp_path, b"s" * 40)) == b"s" * 40


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_secret_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        load_secret(_file(tmp_path, b"s" * 32, mode))


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="31 bytes"):
        load_secret(_file(tmp_path, b"s" * 31))


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_secret_that_is_not_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        load_secret(tmp_path / name)


def test_keys_are_a_function_of_the_secret() -> None:
    assert key_pair(b"a" * 32, "x") == key_pair(b"a" * 32, "x") != key_pair(b"b" * 32, "x")


@pytest.mark.parametrize(
    "address",
    [
        "tcp://0.0.0.0:1",
        "tcp://*:1",
        "tcp://[::]:1",
        "tcp://10.0.0.1:1",
        "tcp://example.org:1",
        "tcp://eth0:1",
    ],
)
def test_an_address_beyond_this_host_needs_a_secret(address: str) -> None:
    with pytest.raises(ConfigError, match="cluster-secret"):
        require_for(address, None)
    require_for(address, b"s" * 32)


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:*", "tcp://127.8.8.8:1", "tcp://[::1]:1", "tcp://localhost:1", "ipc:///x", "shm://*"],
)
def test_an_address_on_this_host_does_not(address: str) -> None:
    require_for(address, None)


def _own_key(socket: zmq.Socket) -> None:
    """Knows the server's public key, and brings a key of its own: CURVE alone would let it in."""
    public, secret = zmq.curve_keypair()
    socket.setsockopt(zmq.CURVE_SERVERKEY, key_pair(b"s" * 32, "router").public)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)


@pytest.mark.parametrize(
    ("prepare", "heard"),
    [
        (lambda s: apply_client(s, b"s" * 32, "prefill", "router"), True),
        (lambda s: apply_client(s, b"w" * 32, "prefill", "router"), False),
        (lambda s: apply_client(s, b"s" * 32, "decode", "router"), False),
        (lambda s: apply_client(s, b"s" * 32, "prefill", "decode"), False),
        (lambda s: apply_client(s, None, "prefill", "router"), False),
        (_own_key, False),
    ],
    ids=["right", "wrong secret", "another side", "to another side", "no secret", "unknown client key"],
)
def test_only_who_knows_the_secret_is_heard(prepare: Callable[[zmq.Socket], None], heard: bool) -> None:
    context: zmq.Context = zmq.Context()
    server, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    guard = apply_server(server, b"s" * 32, "router", ("prefill",))
    server.bind("tcp://127.0.0.1:*")
    prepare(client)
    client.connect(server.getsockopt_string(zmq.LAST_ENDPOINT))
    client.send(b"hello")
    assert bool(server.poll(5000 if heard else 300)) == heard
    for socket in (client, server):
        socket.close(linger=0)
    assert guard is not None
    guard.stop()
    context.term()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_ports_of_this_host_get_this_users_secret(state: Path) -> None:
    first = secret_for(None, "tcp://127.0.0.1:7500")
    assert first is not None
    assert len(first) == 32
    assert first == secret_for(None, "", "tcp://[::1]:0")
    assert (state / "pagewire" / "secret").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in (state / "pagewire").iterdir()] == ["secret"]


def test_sockets_in_the_file_system_need_none(state: Path) -> None:
    assert secret_for(None, "ipc:///x", "shm:///y", "") is None
    assert not list(state.iterdir())


def test_beyond_this_host_the_users_own_secret_will_not_do(state: Path) -> None:
    with pytest.raises(ConfigError, match="cluster-secret"):
        secret_for(None, "tcp://127.0.0.1:1", "tcp://10.0.0.1:7500")


def test_a_given_file_is_the_one(state: Path, tmp_path: Path) -> None:
    assert secret_for(str(_file(tmp_path, b"g" * 33)), "tcp://10.0.0.1:1") == b"g" * 33


def test_where_no_secret_can_be_kept_the_flag_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(_file(tmp_path, b"a file, no folder")))
    with pytest.raises(ConfigError, match="--cluster-secret-file"):
        secret_for(None, "tcp://127.0.0.1:1")
