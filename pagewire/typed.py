"""Decoded msgpack or JSON to dataclasses, each field held to its annotated type.

Knows annotations, and by how much the author's version differs from ours (``skew``):

    0   the same: exactly the fields that the dataclass has
    -1  older by one minor version: fields that have a default may be missing
    1   newer by one: fields that we do not know are dropped

Types are exact whoever wrote. Knows no message and no byte.
"""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from pagewire.errors import PagewireError, RemoteProtocolError

_SETTLED = (int, str, bytes, bool, types.NoneType)  # a field that takes one value of these takes each


def build(cls: type, value: Any, skew: int = 0) -> Any:
    """Make an instance of the dataclass ``cls`` from a decoded map, checking every field."""
    return _converter(cls, skew)(value)


@cache
def names_of(cls: type) -> tuple[str, ...]:
    """The fields of a dataclass, in their order."""
    if not is_dataclass(cls):
        raise TypeError(f"cannot encode {cls.__name__}")
    return tuple(f.name for f in fields(cls))


@cache
def tables_of(cls: type) -> tuple[tuple[str, type], ...]:
    """The fields of ``cls`` that are lists of dataclasses, each with its class."""
    hints = get_type_hints(cls)
    lists = [(name, get_args(hints[name])[0]) for name in names_of(cls) if get_origin(hints[name]) is list]
    return tuple((name, item) for name, item in lists if isinstance(item, type) and is_dataclass(item))


def has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


# --- one converter a type -----------------------------------------------------------------------------------


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


def _make(cls: type, *values: Any, **named: Any) -> Any:
    try:
        return cls(*values, **named)
    except RemoteProtocolError:
        raise
    except PagewireError as error:  # a field is of the right type and out of its range
        raise RemoteProtocolError(str(error)) from error


def _dataclass(cls: type, skew: int) -> Any:
    hints = get_type_hints(cls)
    converters = [(f.name, _converter(hints[f.name], skew)) for f in fields(cls)]
    names = {name for name, _ in converters}
    needed = names if skew >= 0 else {f.name for f in fields(cls) if not has_default(f)}

    def exact(value: Any) -> Any:
        if type(value) is not dict or value.keys() != names:
            raise RemoteProtocolError(f"{cls.__name__} needs exactly its fields")
        return _make(cls, **{name: conv(value[name]) for name, conv in converters})

    def neighbours(value: Any) -> Any:
        if type(value) is not dict or not needed <= value.keys() or (skew < 0 and not value.keys() <= names):
            raise RemoteProtocolError(f"{cls.__name__} needs its fields")
        return _make(cls, **{name: conv(value[name]) for name, conv in converters if name in value})

    return neighbours if skew else exact


def _row(cls: type, skew: int) -> Any:
    """As ``_dataclass``, of the values in order."""
    hints, names = get_type_hints(cls), names_of(cls)
    converters = [_converter(hints[name], skew) for name in names]
    if not skew:
        return _exact_row(cls, converters)
    fewest = len(names) if skew > 0 else sum(not has_default(f) for f in fields(cls))

    def neighbours(value: Any) -> Any:
        if type(value) is not list or len(value) < fewest or (skew < 0 and len(value) > len(names)):
            raise RemoteProtocolError(f"{cls.__name__} needs its fields")
        return _make(cls, *(conv(v) for conv, v in zip(converters, value, strict=False)))

    return neighbours


def _exact_row(cls: type, converters: list[Any]) -> Any:
    """Rows of one class have the same few combinations of types. Once a row of a combination was converted,
    the next ones convert only what a type does not settle: floats may be NaN, and lists have something in
    them.
    """
    plain = not hasattr(cls, "__post_init__")  # its fields have types and no ranges
    seen: dict[tuple[type, ...], list[tuple[int, Any]]] = {}

    def convert(value: Any) -> Any:
        if type(value) is not list or len(value) != len(converters):
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
def _converter(hint: Any, skew: int) -> Any:
    """A function that checks and converts a decoded value of the annotated type ``hint``."""
    if isinstance(hint, NewType):
        return _converter(hint.__supertype__, skew)
    if hint is float:
        return _float
    if hint in (int, str, bytes, bool):
        return _scalar(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return _dataclass(hint, skew)
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        item = args[0]
        rows = isinstance(item, type) and is_dataclass(item)
        return _list(_row(item, skew) if rows else _converter(item, skew), list)
    if origin is tuple and args[-1] is Ellipsis:
        return _list(_converter(args[0], skew), tuple)
    if origin is tuple:
        return _pair([_converter(a, skew) for a in args])
    if origin is dict:
        return _dict(_converter(args[0], skew), _converter(args[1], skew))
    if origin in (Union, types.UnionType) and len(args) == 2 and type(None) in args:
        return _optional(_converter(next(a for a in args if a is not type(None)), skew))
    raise TypeError(f"messages cannot carry {hint!r}")
