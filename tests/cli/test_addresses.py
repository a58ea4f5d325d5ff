from __future__ import annotations

import socket

import pytest

from pagewire.cli import addresses
from pagewire.errors import ConfigError


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:7500", "tcp://[::1]:1", "tcp://*:0", "ipc:///run/x/router"]
)
def test_mailbox_addresses(address: str) -> None:
    assert addresses.mailbox(address, "--listen") == address


@pytest.mark.parametrize(
    "address",
    ["", "10.0.0.1:7500", "tcp://10.0.0.1", "tcp://:1", "tcp://a:b", "tcp://a:1/x", "udp://a:1", "ipc://"],
)
def test_others_are_refused_by_flag(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^--listen "):
        addresses.mailbox(address, "--listen")


@pytest.mark.parametrize(
    ("handoff", "router", "dialable"),
    [
        ("tcp://0.0.0.0:7600", "tcp://127.0.0.1:7500", "tcp://127.0.0.1:7600"),
        ("tcp://*:7600", "tcp://localhost:7500", "tcp://127.0.0.1:7600"),
        ("tcp://0.0.0.0:7600", "ipc:///run/router", "tcp://127.0.0.1:7600"),
        ("tcp://10.1.2.3:7600", "tcp://10.0.0.1:7500", "tcp://10.1.2.3:7600"),
        ("shm:///run/x", "ipc:///run/router", "shm:///run/x"),
    ],
)
def test_a_handoff_address_can_be_dialled(handoff: str, router: str, dialable: str) -> None:
    assert addresses.handoff(handoff, router) == dialable


@pytest.mark.parametrize(
    ("handoff", "trusted", "dialable"),
    [
        ("nixl://127.0.0.1:0", False, "nixl://127.0.0.1:0"),
        ("nixl://0.0.0.0:7600", False, "nixl://127.0.0.1:7600"),
        ("nixl://10.1.2.3:7600", True, "nixl://10.1.2.3:7600"),
    ],
)
def test_a_handoff_by_nixl(
    handoff: str, trusted: bool, dialable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_transfer.transports.nixl_process.has_nixl", lambda: True)
    assert addresses.handoff(handoff, "tcp://127.0.0.1:7500", trusted=trusted) == dialable


@pytest.mark.parametrize(
    ("handoff", "there", "wrong"),
    [
        ("nixl://10.1.2.3:7600", True, "give --trusted-network"),
        ("nixl://127.0.0.1:7600", False, "pip install"),
        ("nixl://127.0.0.1", True, "^--handoff "),
    ],
)
def test_a_handoff_by_nixl_that_cannot_be(
    handoff: str, there: bool, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_transfer.transports.nixl_process.has_nixl", lambda: there)
    with pytest.raises(ConfigError, match=wrong):
        addresses.handoff(handoff, "tcp://127.0.0.1:7500")


def test_a_router_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="no way to it"):
        addresses.handoff("tcp://0.0.0.0:1", "tcp://no-such-host.invalid:7500")


def test_a_free_port_is_found() -> None:
    assert addresses.free_port("127.0.0.1", 0) > 0


def test_a_port_in_use() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(ConfigError, match="already in use; choose another with --port"),
    ):
        addresses.free_port("127.0.0.1", other.getsockname()[1])


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 198\.51\.100\.1:0"):
        addresses.free_port("198.51.100.1", 0)
