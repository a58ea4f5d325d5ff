"""The cluster secret: who may connect to a ZeroMQ socket of ours, and the refusal to bind beyond loopback
without it.

With a secret both ends speak CURVE with the one key pair that the secret gives, so each proves to the other
that it knows the file, and the bytes between them are encrypted and cannot be replayed. CURVE alone lets
any client key in; a ZAP handler (https://rfc.zeromq.org/spec/27/) admits just ours. Knows sockets and keys;
knows no message.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import stat
import threading
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85

from pagewire.errors import ConfigError

MIN_SECRET_BYTES = 32
_PERSON = b"pagewire-curve-1"  # BLAKE2b personalisation: exactly 16 bytes
_ZAP = "inproc://zeromq.zap.01"


class KeyPair(NamedTuple):
    """A CURVE key pair, z85-encoded: 40 ASCII bytes each."""

    public: bytes
    secret: bytes


def load_secret(path: str | Path) -> bytes:
    """Read a cluster secret: a file of 32 bytes or more that only its owner may read. Raises ConfigError."""
    file = Path(path)
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"the cluster secret {path} is not a file")
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(f"the cluster secret {path} may be read by others; run: chmod 600 {path}")
        secret = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"the cluster secret {path} cannot be read: {error.strerror}") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"the cluster secret {path} has {len(secret)} bytes; {MIN_SECRET_BYTES} are needed")
    return secret


def key_pair(secret: bytes) -> KeyPair:
    """The cluster's CURVE keys: BLAKE2b of the secret is the curve25519 scalar."""
    scalar = hashlib.blake2b(secret, digest_size=32, person=_PERSON).digest()
    private = z85.encode(scalar)
    return KeyPair(zmq.curve_public(private), private)


def is_local(address: str) -> bool:
    """True if only this host can reach a socket bound at ``address``."""
    parts = urlsplit(address)
    if parts.scheme in ("inproc", "ipc", "shm"):
        return True
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False  # a wildcard, a host name or an interface


def require_for(address: str, secret: bytes | None) -> None:
    """Raise ConfigError if ``address`` may be reached from other hosts and there is no secret."""
    if secret is None and not is_local(address):
        raise ConfigError(f"{address} can be reached from other hosts: give --cluster-secret-file")


def apply_client(socket: Any, secret: bytes | None) -> None:
    """Make ``socket``, before it connects, prove the secret and ask for the same proof."""
    if secret is not None:
        keys = key_pair(secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def apply_server(socket: Any, secret: bytes | None) -> Guard | None:
    """Make ``socket``, before it binds, admit only peers that know the secret.

    Returns the guard that does so, None without a secret. Stop it after the socket is closed and before the
    context is ended. One guard a context: ZAP is a service of the whole context.
    """
    if secret is None:
        return None
    keys = key_pair(secret)
    guard = Guard(socket.context, keys.public)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, b"pagewire")
    return guard


class Guard:
    """The ZAP handler of one context, on a thread of its own: one client key is allowed, all others are
    not.
    """

    def __init__(self, context: Any, allowed: bytes) -> None:
        # A plain context over the same libzmq one: the given one may be for asyncio.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
        self._allowed = z85.decode(allowed)
        self.denied = 0
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ZAP)
        stop = f"inproc://zap-stop-{id(self)}"
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind(stop)
        self._stopped = self._context.socket(zmq.PAIR)
        self._stopped.connect(stop)
        self._thread = threading.Thread(target=self._run, name="zap", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._wake.send(b"")
            self._thread.join()
            self._wake.close(linger=0)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stopped, zmq.POLLIN)
        with contextlib.suppress(zmq.ContextTerminated):
            while self._stopped not in (ready := dict(poller.poll())):
                if self._socket in ready:
                    self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        self._socket.close(linger=0)
        self._stopped.close(linger=0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        # version, request id, domain, address, identity, mechanism, credentials (32 bytes of public key)
        mine = len(request) == 7 and request[5] == b"CURVE" and request[6] == self._allowed
        self.denied += not mine
        status = [b"200", b"OK", b"node", b""] if mine else [b"400", b"not allowed", b"", b""]
        return [b"1.0", request[1] if len(request) > 1 else b"", *status]
