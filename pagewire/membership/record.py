"""What the directory holds of one process: who it is and where, signed with the cluster secret.

Pure: fields to bytes and back. A record is an HMAC-SHA256 of what follows, 32 bytes, and a msgpack map.
Whoever can write into the directory can hide records and repeat old ones, but make none. Knows no redis, no
clock and no socket; how long a record stands is not in it, since two hosts' clocks may be an hour apart.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, fields
from typing import NewType
from urllib.parse import urlsplit

import msgpack

from pagewire import codec
from pagewire.errors import ConfigError, RemoteProtocolError
from pagewire.messages import DECODE, PREFILL, ROUTER
from pagewire.outward import ANY

WORKER = "worker"  # a node that changes between the two roles
KINDS = (ROUTER, PREFILL, DECODE, WORKER)
MAX_BYTES = 2560  # of a signed record
_TAG_BYTES = 32
_PERSON = b"pagewire-records"  # BLAKE2b personalisation: exactly 16 bytes
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_WORD = re.compile(r"[!-~]{0,256}")  # printable ASCII without spaces

RecordKey = NewType("RecordKey", bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One process in one of its lives. Of two with one name, the one of the higher ``generation`` is the
    newer: redis's own clock, in microseconds, at its first announcement.

    ``address`` is where nodes dial a router, or prefill nodes a decode node; "" for none. ``model`` is the
    name under which it serves. Raises ConfigError where a field cannot be.
    """

    cluster: str
    kind: str
    name: str
    epoch: str
    generation: int
    address: str
    version: str
    model: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("unknown kind of member")
        if not (is_name(self.name) and is_name(self.cluster) and is_name(self.epoch)):
            raise ConfigError(
                "a cluster's and a member's name has up to 128 letters, digits, dots, dashes and underscores"
            )
        if not 0 <= self.generation < 1 << 63:
            raise ConfigError("a generation is a number of microseconds")
        if not _WORD.fullmatch(self.address) or not _WORD.fullmatch(self.version):
            raise ConfigError("addresses and versions have up to 256 characters of ASCII")
        if len(self.model) > 256 or not self.model.isprintable():
            raise ConfigError("a model's name has up to 256 printable characters")
        if self.kind == ROUTER and not can_be_dialled(self.address):
            raise ConfigError("nodes cannot dial a router at this address")

    @property
    def age(self) -> tuple[int, str]:
        """Of two records of one name, the greater is the newer, also if both first announced themselves in
        one microsecond."""
        return self.generation, self.epoch


_FIELDS = tuple(sorted(f.name for f in fields(Record)))


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def can_be_dialled(address: str) -> bool:
    """True for ``tcp://host:port``, where the host is one and not any, and for ``ipc://`` and a path."""
    if address.startswith("ipc://"):
        return len(address) > len("ipc://")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return False
    known = parts.scheme == "tcp" and parts.hostname and parts.hostname not in ANY
    return bool(
        known and port and parts.username is None and not (parts.path or parts.query or parts.fragment)
    )


def key_of(secret: bytes) -> RecordKey:
    """The key for records, which is good for nothing else that the cluster secret is used for."""
    return RecordKey(hashlib.blake2b(secret, digest_size=32, person=_PERSON).digest())


def sign(record: Record, key: RecordKey) -> bytes:
    packed: bytes = msgpack.packb({name: getattr(record, name) for name in _FIELDS})
    signed = hmac.digest(key, packed, "sha256") + packed
    assert len(signed) <= MAX_BYTES
    return signed


def read(signed: bytes, key: RecordKey) -> Record:
    """What ``sign`` made with the same key. Raises RemoteProtocolError on anything else.

    Fields beyond ours are passed over: a newer version may have signed them.
    """
    if not _TAG_BYTES < len(signed) <= MAX_BYTES:
        raise RemoteProtocolError("it has not the length of a record")
    tag, packed = signed[:_TAG_BYTES], signed[_TAG_BYTES:]
    if not hmac.compare_digest(tag, hmac.digest(key, packed, "sha256")):
        raise RemoteProtocolError("its signature is not of this cluster's secret")
    found = codec.unpack(packed)
    if not isinstance(found, dict):
        raise RemoteProtocolError("a record is a map")
    made: Record = codec.build(Record, {name: value for name, value in found.items() if name in _FIELDS})
    return made
