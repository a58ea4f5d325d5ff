"""Addresses as flags give them: checked, and made into ones that another host can dial."""

from __future__ import annotations

import socket
from urllib.parse import SplitResult, urlsplit

from pagewire.errors import ConfigError

_ANY = ("0.0.0.0", "::", "*")


def tcp(address: str, flag: str) -> SplitResult:
    """The parts of ``tcp://host:port``. Raises ConfigError, naming ``flag``, on anything else."""
    try:
        parts = urlsplit(address)
        good = parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path
    except ValueError:  # a port that is no number, or a bracket too few
        good = False
    if not good:
        raise ConfigError(f"{flag} {address}: write it as tcp://HOST:PORT, for example tcp://10.0.0.5:7500")
    return parts


def mailbox(address: str, flag: str) -> str:
    """A mailbox address: ``tcp://host:port``, or ``ipc://`` and a path. Raises ConfigError."""
    if not (address.startswith("ipc://") and len(address) > len("ipc://")):
        tcp(address, flag)
    return address


def handoff(address: str, router: str, *, trusted: bool = False) -> str:
    """Where a decode node listens, as prefill nodes can dial it: ``shm://``, ``tcp://`` or ``nixl://``.

    "Any interface" (0.0.0.0) becomes the one that leads to ``router``: its address goes to the prefill nodes
    by way of the router, and none of them can dial 0.0.0.0. ``trusted``: as for ``kv_transfer.check_nixl``.
    Raises ConfigError.
    """
    if address.startswith("shm://"):
        return address
    if not address.startswith("nixl://"):
        return _dialable(address, router)
    from kv_transfer import check_nixl  # with all that it needs of sockets, which few commands do

    dialable = "nixl" + _dialable(address.replace("nixl://", "tcp://", 1), router).removeprefix("tcp")
    check_nixl(dialable, trusted=trusted)
    return dialable


def _dialable(address: str, router: str) -> str:
    parts = tcp(address, "--handoff")
    if parts.hostname not in _ANY:
        return address
    if router.startswith("ipc://"):
        return f"tcp://127.0.0.1:{parts.port}"
    return f"tcp://{_outward(tcp(router, '--router'))}:{parts.port}"


def _outward(router: SplitResult) -> str:
    """Our own address on the way to ``router``. Asks the routing table; sends nothing."""
    try:
        family, kind, _, _, peer = socket.getaddrinfo(router.hostname, router.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(peer)
            host = str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(f"--router {router.geturl()}: no way to it: {error.strerror}") from error
    return f"[{host}]" if family == socket.AF_INET6 else host


def free_port(host: str, port: int) -> int:
    """``port``, or a free one if it is 0. Raises ConfigError if it cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)  # two sockets may be bound to one port, and only one of them may listen
            return int(probe.getsockname()[1])
    except OSError as error:
        hint = "; choose another with --port" if port else ""
        why = (error.strerror or "").lower()
        raise ConfigError(f"cannot listen on {host}:{port}: {why}{hint}") from error
