"""Messages to bytes and back, strictly.

A message is the xxh3-64 of what follows, 8 bytes, and a msgpack array ``[type name, {field: value, ...}]``.
Dataclasses within are maps too, but those in a list are rows, ``[value, ...]`` in the order of their fields:
a step's tokens need not repeat the names, and are read in a fifth of the time. Decoding accepts exactly the
fields of the named dataclass with exactly their annotated types, refuses duplicate keys, NaN, ext types and
unknown types, and raises RemoteProtocolError on anything else. The checksum finds accidents; against forgery
stand the keys of the sockets. Knows dataclasses; knows no socket.
"""

from __future__ import annotations

import math
import types
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack
import xxhash

from pagewire.errors import PagewireError, RemoteProtocolError

MAX_MESSAGE_BYTES = 16 << 20
_CHECK_BYTES = 8
T = TypeVar("T")


class Codec:
    """Encodes and decodes a closed set of dataclasses."""

    def __init__(self, *classes: type) -> None:
        self._classes = {cls.__name__: cls for cls in classes}

    def encode(self, message: object) -> bytes:
        name = type(message).__name__
        assert self._classes.get(name) is type(message), f"{name} is not in this codec"
        return seal(msgpack.packb([name, message], default=_as_dict))

    def decode_as(self, cls: type[T], data: bytes | memoryview) -> T:
        """As ``decode``, where only one type will do."""
        message = self.decode(data)
        if not isinstance(message, cls):
            raise RemoteProtocolError(f"expected {cls.__name__}")
        return message

    def decode(self, data: bytes | memoryview) -> Any:
        """Raises RemoteProtocolError on anything that ``encode`` of this codec could not have made."""
        value = unseal(data)
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
            raise RemoteProtocolError("a message is a pair of type name and fields")
        cls = self._classes.get(value[0])
        if cls is None:
            raise RemoteProtocolError("unknown message type")
        return build(cls, value[1])


def fingerprint(*codecs: Codec) -> str:
    """8 hex digits of all that these codecs can carry: every class, field and type. Two programs with the
    same one can read each other's messages, whatever their versions.
    """
    lines: dict[str, str] = {}
    for codec in codecs:
        for cls in codec._classes.values():
            _describe(cls, lines)
    return blake2b("\n".join(sorted(lines.values())).encode(), digest_size=4).hexdigest()


def _describe(hint: Any, lines: dict[str, str]) -> str:
    """The name of a type; ``lines`` get what is in it, if it is a dataclass."""
    if isinstance(hint, NewType):
        return _describe(hint.__supertype__, lines)
    if isinstance(hint, type) and is_dataclass(hint):
        if hint.__name__ not in lines:
            lines[hint.__name__] = ""  # a class may hold itself
            hints = get_type_hints(hint)
            parts = [f"{f.name}: {_describe(hints[f.name], lines)}" for f in fields(hint)]
            lines[hint.__name__] = f"{hint.__name__}({', '.join(parts)})"
        return hint.__name__
    if args := get_args(hint):
        origin = get_origin(hint)
        name = "Union" if origin in (Union, types.UnionType) else origin.__name__
        return f"{name}[{', '.join(_describe(arg, lines) for arg in args)}]"
    return "..." if hint is Ellipsis else str(hint.__name__)


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


def build(cls: type, value: Any) -> Any:
    """Make an instance of the dataclass ``cls`` from a decoded map, checking every field."""
    return _converter(cls)(value)


def _as_dict(value: object) -> dict[str, Any]:
    kind: Any = type(value)
    values = {name: getattr(value, name) for name in _names(kind)}
    for name, row in _tables(kind):
        values[name] = [_as_row(entry, row) for entry in values[name]]
    return values


def _as_row(value: object, cls: type) -> list[Any]:
    values = [getattr(value, name) for name in _names(cls)]
    for name, row in _tables(cls):
        at = _names(cls).index(name)
        values[at] = [_as_row(entry, row) for entry in values[at]]
    return values


@cache
def _names(cls: type) -> tuple[str, ...]:
    if not is_dataclass(cls):
        raise TypeError(f"cannot encode {cls.__name__}")
    return tuple(f.name for f in fields(cls))


@cache
def _tables(cls: type) -> tuple[tuple[str, type], ...]:
    """The fields of ``cls`` that are lists of dataclasses, each with its class."""
    hints = get_type_hints(cls)
    lists = [(name, get_args(hints[name])[0]) for name in _names(cls) if get_origin(hints[name]) is list]
    return tuple((name, item) for name, item in lists if isinstance(item, type) and is_dataclass(item))


_SETTLED = (int, str, bytes, bool, types.NoneType)  # a field that takes one value of these takes each


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise RemoteProtocolError("duplicate key")
    return result


def _refuse_ext(code: int, data: bytes) -> Any:
    raise RemoteProtocolError("ext types are not accepted")


def _wrong(expected: str, value: object) -> RemoteProtocolError:
    return RemoteProtocolError(f"expected {expected}, got {type(value).__name__}")


def _scalar(kind: type) -> Any:
    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise _wrong(kind.__name__, value)
        return value

    return convert


def _float(value: Any) -> float:
    if type(value) is int:
        return float(value)
    if type(value) is not float or math.isnan(value):
        raise _wrong("float", value)
    return value


def _dataclass(cls: type) -> Any:
    hints = get_type_hints(cls)
    converters = [(f.name, _converter(hints[f.name])) for f in fields(cls)]
    names = {name for name, _ in converters}

    def convert(value: Any) -> Any:
        if type(value) is not dict or value.keys() != names:
            raise RemoteProtocolError(f"{cls.__name__} needs exactly its fields")
        return _make(cls, **{name: conv(value[name]) for name, conv in converters})

    return convert


def _make(cls: type, *values: Any, **named: Any) -> Any:
    try:
        return cls(*values, **named)
    except RemoteProtocolError:
        raise
    except PagewireError as error:  # a field is of the right type and out of its range
        raise RemoteProtocolError(str(error)) from error


def _row(cls: type) -> Any:
    """As ``_dataclass``, of the values in order.

    Rows of one class have the same few combinations of types. Once a row of a combination was converted, the
    next ones convert only what a type does not settle: floats may be NaN, and lists have something in them.
    """
    hints, names = get_type_hints(cls), _names(cls)
    converters = [_converter(hints[name]) for name in names]
    plain = not hasattr(cls, "__post_init__")  # its fields have types and no ranges
    seen: dict[tuple[type, ...], list[tuple[int, Any]]] = {}

    def convert(value: Any) -> Any:
        if type(value) is not list or len(value) != len(names):
            raise RemoteProtocolError(f"{cls.__name__} needs exactly its fields")
        kinds = tuple(map(type, value))
        if (rest := seen.get(kinds)) is None:
            values = [conv(v) for conv, v in zip(converters, value, strict=True)]
            seen[kinds] = [
                (at, converters[at])
                for at, kind in enumerate(kinds)
                if kind not in _SETTLED or values[at] is not value[at]
            ]
            return _make(cls, *values)
        for at, conv in rest:
            value[at] = conv(value[at])
        return cls(*value) if plain else _make(cls, *value)

    return convert


def _list(item: Any, make: type) -> Any:
    def convert(value: Any) -> Any:
        if type(value) is not list:
            raise _wrong("list", value)
        return make([item(v) for v in value])

    return convert


def _pair(items: list[Any]) -> Any:
    def convert(value: Any) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise _wrong(f"{len(items)} values", value)
        return tuple(conv(v) for conv, v in zip(items, value, strict=True))

    return convert


def _dict(key: Any, item: Any) -> Any:
    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise _wrong("map", value)
        return {key(k): item(v) for k, v in value.items()}

    return convert


def _optional(item: Any) -> Any:
    return lambda value: None if value is None else item(value)


@cache
def _converter(hint: Any) -> Any:
    """A function that checks and converts a decoded value of the annotated type ``hint``."""
    if isinstance(hint, NewType):
        return _converter(hint.__supertype__)
    if hint is float:
        return _float
    if hint in (int, str, bytes, bool):
        return _scalar(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return _dataclass(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        item = args[0]
        rows = isinstance(item, type) and is_dataclass(item)
        return _list(_row(item) if rows else _converter(item), list)
    if origin is tuple and args[-1] is Ellipsis:
        return _list(_converter(args[0]), tuple)
    if origin is tuple:
        return _pair([_converter(a) for a in args])
    if origin is dict:
        return _dict(_converter(args[0]), _converter(args[1]))
    if origin in (Union, types.UnionType) and len(args) == 2 and type(None) in args:
        return _optional(_converter(next(a for a in args if a is not type(None))))
    raise TypeError(f"messages cannot carry {hint!r}")
