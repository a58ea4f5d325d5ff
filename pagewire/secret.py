"""The cluster secret: where it comes from, which keys it gives, and which sockets cannot do without it.

With a secret both ends of a ZeroMQ connection speak CURVE, so each proves to the other that it knows the
file, and the bytes between them are encrypted and cannot be replayed. Each side of a connection has a key
pair of its own name, so that a port can tell who dials it: a mix-up of addresses is refused at the
handshake. Whoever has the secret can make all of them. Knows keys and addresses; who is let in is watched by
``pagewire.guard``.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85

from pagewire.errors import ConfigError
from pagewire.guard import Guard
from pagewire.private import is_local, private_bytes, state_folder

MIN_SECRET_BYTES = 32
_ADMIN = b"pagewire-admin-1"
_PERSON = b"pagewire-curve-2"  # BLAKE2b personalisation: exactly 16 bytes


class KeyPair(NamedTuple):
    """A CURVE key pair, z85-encoded: 40 ASCII bytes each."""

    public: bytes
    secret: bytes


def load_secret(path: str | Path) -> bytes:
    """Read a cluster secret: a file of 32 bytes or more that only its owner may read. Raises ConfigError."""
    secret = private_bytes(path, "the cluster secret")
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"the cluster secret {path} has {len(secret)} bytes; {MIN_SECRET_BYTES} are needed")
    return secret


def secret_for(path: str | None, *addresses: str) -> bytes | None:
    """The secret for a process that uses ``addresses`` ("": none): that of the file ``path``, if given.

    Without one, sockets in the file system need none, since their permissions say who may connect; ports of
    this host get the one of this user, since all its users can reach them. Raises ConfigError if an address
    leads beyond this host.
    """
    if path is not None:
        return load_secret(path)
    for address in filter(None, addresses):
        require_for(address, None)
    if any(urlsplit(address).scheme in ("tcp", "nixl") for address in addresses):
        return load_secret(own_secret())
    return None


def own_secret() -> Path:
    """The file with this user's own secret on this host, made when first asked for. Raises ConfigError."""
    try:
        path = state_folder() / "secret"
        if not path.exists():
            draft = path.with_name(f".secret-{secrets.token_hex(8)}")
            draft.touch(mode=0o600)
            draft.write_bytes(secrets.token_bytes(MIN_SECRET_BYTES))
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(draft)  # another process may be first: then that one's counts
            draft.unlink()
    except (ConfigError, OSError) as error:
        raise ConfigError("no secret of this user can be kept: give --cluster-secret-file") from error
    return path


def key_pair(secret: bytes, side: str) -> KeyPair:
    """The CURVE keys of one side of a connection, such as "router": BLAKE2b of the secret, salted with the
    side's name of at most 16 letters, is the curve25519 scalar.
    """
    salt = side.encode().ljust(hashlib.blake2b.SALT_SIZE, b"\0")
    scalar = hashlib.blake2b(secret, digest_size=32, person=_PERSON, salt=salt).digest()
    private = z85.encode(scalar)
    return KeyPair(zmq.curve_public(private), private)


def admin_token(secret: bytes) -> str:
    """What whoever may tell a router's nodes what to do shows it: 64 hex digits."""
    return hashlib.blake2b(secret, digest_size=32, person=_ADMIN).hexdigest()


def require_for(address: str, secret: bytes | None) -> None:
    """Raise ConfigError if ``address`` may be reached from other hosts and there is no secret."""
    if secret is None and not is_local(address):
        raise ConfigError(f"{address} can be reached from other hosts: give --cluster-secret-file")


def apply_client(socket: Any, secret: bytes | None, side: str, server: str) -> None:
    """Make ``socket``, before it connects, prove that it is ``side``, and ask for proof that it reached
    ``server``.
    """
    if secret is not None:
        keys = key_pair(secret, side)
        socket.setsockopt(zmq.CURVE_SERVERKEY, key_pair(secret, server).public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def apply_server(socket: Any, secret: bytes | None, side: str, clients: tuple[str, ...]) -> Guard | None:
    """Make ``socket``, before it binds, prove that it is ``side``, and admit only ``clients``.

    Returns the guard that does so, None without a secret. Stop it after the socket is closed and before the
    context is ended. One guard a context: ZAP is a service of the whole context.
    """
    if secret is None:
        return None
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key_pair(secret, side).secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, b"pagewire")
    return Guard(socket, {z85.decode(key_pair(secret, client).public): client for client in clients})
