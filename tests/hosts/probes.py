"""What a stranger on the network finds: ports that listen, and what they say without the secret.

Knows sockets and bytes; knows no protocol.
"""

from __future__ import annotations

import re
import socket

from bridge import Bridge

PATIENCE_S = 1.5
_READY = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
_GREETINGS = (
    b"",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PING\r\n",
    b"\0" * 64,
    # ZMTP 3.1 with the mechanism NULL, and a READY: what a ZeroMQ peer without a secret says.
    b"\xff" + b"\0" * 8 + b"\x7f\x03\x01NULL" + b"\0" * 48 + _READY,
)
_ZMTP_GREETING = 64  # bytes that any ZeroMQ socket says to anybody: version and mechanism


def listeners(bridge: Bridge, host: str) -> set[int]:
    """TCP ports that listen on ``host``, on any of its addresses."""
    found = bridge.output(host, "cat", "/proc/net/tcp", "/proc/net/tcp6")
    return {int(port, 16) for port in re.findall(r":([0-9A-F]{4}) [0-9A-F]+:0000 0A ", found)}


def says_something(address: str, port: int) -> str:
    """What it answered that is more than the greeting of its protocol, whatever was said; "" for nothing."""
    for greeting in _GREETINGS:
        with socket.create_connection((address, port), PATIENCE_S) as line:
            line.settimeout(PATIENCE_S)
            heard = b""
            try:
                line.sendall(greeting)
                while part := line.recv(4096):
                    heard += part
            except OSError:
                pass
        rest = heard[_ZMTP_GREETING:] if heard[:1] == b"\xff" else heard
        if rest and not _is_error(rest):
            return repr(rest[:60])
    return ""


def _is_error(said: bytes) -> bool:
    """A ZMTP ERROR command: it says that the mechanism is wrong, and nothing else."""
    return said[:1] == b"\x04" and said[2:8] == b"\x05ERROR"
