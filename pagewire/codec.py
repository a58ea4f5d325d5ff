"""Messages to bytes and back, strictly.

A message is the xxh3-64 of what follows, 8 bytes, and a msgpack array ``[level, type name, {field: value,
...}]``. The level says which version wrote it (``pagewire.versions``). Dataclasses within are maps too, but
those in a list are rows, ``[value, ...]`` in the order of their fields: a step's tokens need not repeat the
names, and are read in a fifth of the time.

Decoding accepts exactly the fields of the named dataclass with exactly their annotated types; of a
neighbouring version what ``pagewire.typed`` allows, and no other version. It refuses duplicate keys, NaN, ext
types and unknown types, and raises RemoteProtocolError on anything else. The checksum finds accidents;
against forgery stand the keys of the sockets. Knows dataclasses; knows no socket.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgpack
import xxhash

from pagewire.errors import RemoteProtocolError
from pagewire.typed import build as build
from pagewire.typed import names_of, tables_of
from pagewire.versions import LEVEL

MAX_MESSAGE_BYTES = 16 << 20
_CHECK_BYTES = 8
T = TypeVar("T")


class NewerMessage(RemoteProtocolError):
    """A newer neighbour says something that this version has no word for: to be ignored."""


class Codec:
    """Encodes and decodes a closed set of dataclasses, for a process of version ``level``."""

    def __init__(self, *classes: type, level: int = LEVEL) -> None:
        self.classes = {cls.__name__: cls for cls in classes}
        self._level = level

    def encode(self, message: object) -> bytes:
        name = type(message).__name__
        assert self.classes.get(name) is type(message), f"{name} is not in this codec"
        return seal(msgpack.packb([self._level, name, message], default=_as_dict))

    def decode_as(self, cls: type[T], data: bytes | memoryview) -> T:
        """As ``decode``, where only one type will do."""
        message = self.decode(data)
        if not isinstance(message, cls):
            raise RemoteProtocolError(f"expected {cls.__name__}")
        return message

    def decode(self, data: bytes | memoryview) -> Any:
        """Raises RemoteProtocolError on anything that ``encode`` of this codec, or that of a neighbouring
        version, could not have made; NewerMessage on what may be ignored.
        """
        value = unseal(data)
        if type(value) is not list or len(value) != 3 or type(value[0]) is not int:
            raise RemoteProtocolError("a message is a level, a type name and fields")
        level, name, given = value
        if (skew := level - self._level) and abs(skew) > 1:
            raise RemoteProtocolError("a message of a version that does not go with ours")
        if type(name) is not str or (cls := self.classes.get(name)) is None:
            raise (NewerMessage if skew > 0 else RemoteProtocolError)("unknown message type")
        return build(cls, given, skew)


def seal(packed: bytes) -> bytes:
    """``packed`` with its checksum before it."""
    return xxhash.xxh3_64_digest(packed) + packed


def unseal(data: bytes | memoryview) -> Any:
    """What ``seal`` made, checked and unpacked. Raises RemoteProtocolError."""
    packed = memoryview(data)[_CHECK_BYTES:]
    if len(data) > MAX_MESSAGE_BYTES or xxhash.xxh3_64_digest(packed) != data[:_CHECK_BYTES]:
        raise RemoteProtocolError("a message's checksum does not match")
    return unpack(packed)


def unpack(data: bytes | memoryview) -> Any:
    """Strict msgpack: no ext types, no duplicate keys, bounded by the input's own size.

    NaN and timestamps come through here; no field's type accepts them, so ``build`` refuses both.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"message of {len(data)} bytes is over the limit")
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            object_pairs_hook=_unique,
            ext_hook=_refuse_ext,
            timestamp=0,
        )
    except RemoteProtocolError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError("not well-formed msgpack") from error


def _as_dict(value: object) -> dict[str, Any]:
    kind: Any = type(value)
    values = {name: getattr(value, name) for name in names_of(kind)}
    for name, row in tables_of(kind):
        values[name] = [_as_row(entry, row) for entry in values[name]]
    return values


def _as_row(value: object, cls: type) -> list[Any]:
    values = [getattr(value, name) for name in names_of(cls)]
    for name, row in tables_of(cls):
        at = names_of(cls).index(name)
        values[at] = [_as_row(entry, row) for entry in values[at]]
    return values


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise RemoteProtocolError("duplicate key")
    return result


def _refuse_ext(code: int, data: bytes) -> Any:
    raise RemoteProtocolError("ext types are not accepted")
