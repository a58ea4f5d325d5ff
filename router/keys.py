"""API keys: where they come from, who holds one, and how a changed file is taken up.

Knows key files and the words of an Authorization header; knows no route and no request. A key is kept and
compared as its SHA-256 digest, against every known one each time, so that timing tells nothing about them.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pagewire.audit import clean
from pagewire.errors import ConfigError
from pagewire.private import is_local, private_bytes
from router.options import RouterOptions

LOOK_S = 1.0  # between two looks at the key file, which are made when a request comes
TENANT_DIGITS = 16
MAX_KEYS = 4096
MAX_SALT = 128  # characters; a longer one counts by its digest

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

Digests = dict[bytes, str]  # of each key, with the name of its tenant

log = logging.getLogger("pagewire.router")


class KeyRing:
    """The keys that open this router. None at all: anybody may come in. ``clock`` never goes back."""

    def __init__(
        self,
        keys: Iterable[str] = (),
        file: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``file`` holds further keys. Raises ConfigError."""
        self._given: Digests = {digest: _name_of(digest) for digest in map(_digest, keys)}
        self._file = None if file is None else Path(file)
        self._clock = clock
        self._look_at = clock() + LOOK_S
        self._seen = self._state()
        self._digests = self._given if self._file is None else self._given | read_keys(self._file)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def tenant(self, header: str) -> str | None:
        """Whose key ``header`` carries: "" if there are no keys, None if it carries none that is known."""
        self._look()
        if not self._digests:
            return ""
        scheme, _, key = header.partition(" ")
        asked, found = _digest(key.strip()), None
        for digest, name in self._digests.items():
            if hmac.compare_digest(asked, digest):
                found = name
        return found if scheme.lower() == "bearer" else None

    def _look(self) -> None:
        """Take up a changed file. One that is wrong changes nothing: who could come in still can."""
        if self._file is None or (now := self._clock()) < self._look_at:
            return
        self._look_at = now + LOOK_S
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._digests = self._given | read_keys(self._file)
        except ConfigError as error:
            log.warning("the API keys stay as they were: %s", error)
        else:
            log.info("%d API keys are known now", len(self._digests))

    def _state(self) -> tuple[int, int, int, int] | None:
        """What differs when the file was written anew, or let others in."""
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode


def ring_of(options: RouterOptions) -> KeyRing:
    """The keys of a router. Raises ConfigError if there are none and other hosts could come in."""
    ring = KeyRing(options.api_keys, options.api_key_file)
    host = f"[{options.host}]" if ":" in options.host else options.host
    if not ring and not options.insecure and not is_local(f"tcp://{host}:1"):
        raise ConfigError(
            f"anybody who reaches {options.host or 'this host'} could use this router: give --api-key-file, "
            "or --insecure if that is meant"
        )
    return ring


def read_keys(file: Path) -> Digests:
    """One key a line, or ``NAME: KEY``, which names the tenant; # begins a comment. Keys of one name are one
    tenant, so that a key can be changed while both are good. Raises ConfigError, which shows no key.
    """
    try:
        lines = private_bytes(file, "the API key file").decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"the API key file {file} must be ASCII text") from error
    found: Digests = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        before, colon, after = words.partition(":")
        name, key = (before.strip(), after.strip()) if colon else ("", words)
        if (colon and not _NAME.fullmatch(name)) or not is_key(key) or ":" in key:
            raise ConfigError(f"line {number} of the API key file {file} is not KEY or NAME: KEY")
        digest = _digest(key)
        found[digest] = name or _name_of(digest)
    if not 0 < len(found) <= MAX_KEYS:
        raise ConfigError(f"the API key file {file} must hold 1 to {MAX_KEYS} keys, and holds {len(found)}")
    return found


def is_key(key: str) -> bool:
    """True if a client could send it."""
    return bool(key) and key.isascii() and key.isprintable() and " " not in key


def salt_of(tenant: str, given: str | None) -> str:
    """What keeps this tenant's prefixes apart from those of others, and, with a ``cache_salt`` ``given`` by
    the client, from its own. No tenant can name the salt of another.
    """
    salt = given or ""
    if len(salt) > MAX_SALT:
        salt = hashlib.blake2b(salt.encode(), digest_size=32).hexdigest()
    return f"{tenant}/{salt}" if tenant else salt


def refusal(client: str, path: str) -> str:
    """For the audit log: who was refused at which door."""
    return f"no valid API key from {client or 'somebody'} for {clean(path, 80)}"


def _name_of(digest: bytes) -> str:
    """A tenant's name that tells nothing of the key."""
    return digest.hex()[:TENANT_DIGITS]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
