"""Addresses as flags give them: checked, and made into ones that another host can dial."""

from __future__ import annotations

import socket
from urllib.parse import SplitResult, urlsplit

from pagewire import outward
from pagewire.errors import ConfigError


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

    "Any interface" (0.0.0.0) becomes the one that leads to ``router``, or to the directory that stands for
    routers: its address goes to the prefill nodes by way of the router, and none of them can dial 0.0.0.0.
    ``trusted``: as for ``kv_transfer.check_nixl``.
    Raises ConfigError.
    """
    if address.startswith("shm://"):
        return address
    if not address.startswith("nixl://"):
        return dialable(tcp(address, "--handoff"), router)
    from kv_transfer import check_nixl  # with all that it needs of sockets, which few commands do

    as_tcp = tcp(address.replace("nixl://", "tcp://", 1), "--handoff")
    reached = "nixl" + dialable(as_tcp, router).removeprefix("tcp")
    check_nixl(reached, trusted=trusted)
    return reached


def dialable(bound: SplitResult, far: str) -> str:
    """``bound``; in place of "any interface" with the address on the way to ``far``. Raises ConfigError."""
    if bound.hostname not in outward.ANY:
        return bound.geturl()
    if not far.startswith("tcp://"):
        return f"tcp://127.0.0.1:{bound.port}"
    return f"tcp://{_outward(urlsplit(far))}:{bound.port}"


def advertised(listen: str, advertise: str | None, directory: str) -> str:
    """Where nodes dial a router that listens at ``listen``, for the directory. Port 0 stays: whoever binds
    it fills it in. Raises ConfigError.
    """
    if advertise is not None:
        parts = tcp(advertise, "--advertise")
        if parts.hostname in outward.ANY or not parts.port:
            raise ConfigError(f"--advertise {advertise}: nodes cannot dial that")
        return advertise
    return listen if listen.startswith("ipc://") else dialable(tcp(listen, "--listen"), directory)


def _outward(far: SplitResult) -> str:
    try:
        return outward.towards(far.hostname or "", far.port or 1)
    except OSError as error:
        raise ConfigError(f"{far.netloc}: no way to it: {error.strerror}") from error


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
