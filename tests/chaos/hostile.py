"""What attacks on the handoff have in common: raw links that send any parts, and taps on real ends.

Knows sockets and keys of the handoff; knows no scenario.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import here  # noqa: F401
from report import FaultMissing
from victim import Victim

from kv_transfer import wire
from kv_transfer.transports.base import Peer
from kv_transfer.transports.shm import ShmDialer, ShmListener
from kv_transfer.transports.tcp import TcpDialer, TcpListener
from kv_transfer.transports.zeromq import Dealers

Frame = tuple[bytes, bytes]  # head, body
Hook = Callable[[bytes, bytes], list[list[bytes]]]  # a frame about to be sent -> what to send before it

GROWTH_MIB = 64.0
REFUSED = (
    "malformed",
    "version",
    "forged",
    "unknown",
    "late",
    "stray",
    "duplicate",
    "out_of_range",
    "corrupt",
)


@contextmanager
def secret_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pagewire-hostile-") as folder:
        path = Path(folder) / "secret"
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
        yield path


def until(probe: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask until ``probe`` says something true. Raises FaultMissing, naming ``what``, if it never does."""
    end = time.monotonic() + seconds
    while not (found := probe()):
        if time.monotonic() > end:
            raise FaultMissing(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)
    return found


def refused(report: dict[str, Any]) -> int:
    """Frames that were counted as one or another kind of wrong."""
    return sum(report["counts"].get(name, 0) for name in REFUSED)


class TapDialer:
    """A sender's wire that sends what ``hook`` makes of each frame first, over the same connection."""

    def __init__(self, inner: TcpDialer | ShmDialer, hook: Hook) -> None:
        self._inner = inner
        self.hook = hook
        self.extra = 0

    def send(self, peer: Peer, head: bytes, body: Any) -> bool:
        to = Peer(peer.replace(b"shm://", b"ipc://", 1))
        for parts in self.hook(head, bytes(body)):
            while not self._inner._dealers.send(to, parts):
                if self._inner.lost([peer]):
                    return False
                time.sleep(0.001)
            self.extra += 1
        return self._inner.send(peer, head, body)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class TapListener:
    """A receiver's wire that does the same with what it answers."""

    def __init__(self, inner: TcpListener | ShmListener, hook: Hook) -> None:
        self._inner = inner
        self.hook = hook
        self.extra = 0

    def send(self, peer: Peer, head: bytes, body: Any) -> bool:
        for parts in self.hook(head, bytes(body)):
            if self._inner._router.send(peer, parts):
                self.extra += 1
        return self._inner.send(peer, head, body)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Link:
    """One raw connection to a receiver, with the right key: sends anything, and reads what comes back."""

    def __init__(self, victim: Victim, secret: bytes | None) -> None:
        self._dealers = Dealers(secret)
        self._peer = Peer(victim.address.replace("shm://", "ipc://").encode())
        self.sent = 0
        self.heard: list[wire.Message] = []

    def send(self, *parts: bytes) -> None:
        end = time.monotonic() + 20
        while not self._dealers.send(self._peer, parts):
            if time.monotonic() > end or self._dealers.lost([self._peer]):
                raise FaultMissing("the attacker's connection is down")
            time.sleep(0.001)
        self.sent += 1
        if self.sent % 256 == 0:
            self.listen()

    def say(self, message: wire.Message, body: bytes = b"") -> None:
        head = wire.encode(message, body)
        self.send(*([head, body] if body else [head]))

    def listen(self) -> list[wire.Message]:
        for _, parts in self._dealers.receive():
            if parts and len(parts[0]):
                self.heard.append(wire.decode(bytes(parts[0])))
        return self.heard

    def until(self, kind: type, seconds: float = 5.0) -> Any:
        """The first answer of that kind, taken out of ``heard``."""
        found = until(
            lambda: next((m for m in self.listen() if isinstance(m, kind)), None), seconds, kind.__name__
        )
        self.heard.remove(found)
        return found

    @property
    def down(self) -> bool:
        return bool(self._dealers.lost([self._peer]))

    def close(self) -> None:
        self._dealers.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dialer(address: str, secret: bytes | None) -> TcpDialer | ShmDialer:
    return ShmDialer(secret) if address.startswith("shm") else TcpDialer(secret)
