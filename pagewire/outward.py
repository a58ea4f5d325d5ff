"""Our own address as others see it: of the interface that leads to them. Knows the routing table."""

from __future__ import annotations

import socket

ANY = ("0.0.0.0", "::", "*")  # hosts that a socket can be bound to and nobody can dial


def towards(host: str, port: int) -> str:
    """This host's address on the way to ``host``, in brackets if it has colons. Sends nothing. Raises
    OSError.
    """
    family, kind, _, _, peer = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(peer)
        found = str(probe.getsockname()[0])
    return f"[{found}]" if family == socket.AF_INET6 else found
