"""Schemas of growing size, schemas that nothing bounds, and grammars that mean harm.

What is bounded is bounded whole: a small model fills each string to its end. Knows JSON schemas; asks nobody.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
Case = tuple[str, dict[str, Any]]  # a name, and the fields of a request


def growing(count: int = 20) -> list[Schema]:
    """The n-th has n properties, of all kinds in turn."""
    return [_object(n) for n in range(1, count + 1)]


def _object(properties: int) -> Schema:
    made = {f"field_{n}": _KINDS[n % len(_KINDS)] for n in range(properties)}
    return {"type": "object", "properties": made, "required": [*made], "additionalProperties": False}


_KINDS: list[Schema] = [
    {"type": "string", "maxLength": 12},
    {"type": "integer", "minimum": 0, "maximum": 999},
    {"enum": ["red", "green", "blue", None]},
    {"type": "boolean"},
    {"type": "array", "items": {"enum": ["north", "south", "east", "west"]}, "minItems": 1, "maxItems": 3},
    {"type": "number", "minimum": -10, "maximum": 10, "multipleOf": 0.25},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    {"type": "string", "format": "date"},
    {
        "type": "object",
        "properties": {"x": {"type": "integer", "minimum": -9, "maximum": 9}, "on": {"type": "boolean"}},
        "required": ["x", "on"],
        "additionalProperties": False,
    },
    {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 6}]},
]

UNBOUNDED: list[Schema] = [
    {"type": "object"},
    {"type": "object", "properties": {"story": {"type": "string"}}, "required": ["story"]},
    {"type": "array", "items": {"type": "string"}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 5},
]


def _schema(schema: Any) -> dict[str, Any]:
    wanted = {"name": "hostile", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _guided(kind: str, value: Any) -> dict[str, Any]:
    return {f"guided_{kind}": value}


def _nested(depth: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _crossed(size: int) -> Schema:
    """A product of alternatives: size ** size objects."""
    made = [{"type": "object", "properties": {f"p{n}": {"type": "string"}}} for n in range(size)]
    return {"allOf": [{"anyOf": made} for _ in range(size)]}


HOSTILE: list[Case] = [
    ("a schema 100 deep", _schema(_nested(100))),
    ("an enum of 100,000", _schema({"enum": [f"{n}" for n in range(100_000)]})),
    ("an enum that just fits", _schema({"enum": [f"{n:04}" for n in range(4000)]})),
    ("20 to the 20 objects", _schema(_crossed(20))),
    ("a string of a billion", _schema({"type": "string", "minLength": 10**9})),
    ("a list of a billion", _schema({"type": "array", "items": {"type": "string"}, "minItems": 10**9})),
    ("a number of 400 digits", _schema({"type": "integer", "minimum": 10**400})),
    ("multiples of a large prime", _schema({"type": "integer", "multipleOf": 999_999_937})),
    ("multiples of next to nothing", _schema({"type": "number", "multipleOf": 1e-300})),
    ("a reference to itself", _schema({"$ref": "#"})),
    ("a reference round about", _schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})),
    ("a reference to the network", _schema({"$ref": "http://127.0.0.1:9/schema.json"})),
    ("a reference to a file", _schema({"$ref": "file:///etc/passwd"})),
    ("a pattern of repeats", _schema({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"})),
    ("a regex of repeats", _guided("regex", "((((a{1,100}){1,100}){1,100}){1,100}){1,100}")),
    ("a regex of a thousand thousands", _guided("regex", "(a{1,1000}){1,1000}")),
    ("a regex with many ways", _guided("regex", "(.*.*.*=.*){50}x")),
    ("a regex that blows up", _guided("regex", "(.*a.{0,200}){1,50}")),
    ("a grammar without an end", _guided("grammar", "start: start")),
    ("a grammar 5,000 deep", _guided("grammar", "start: " + "(" * 5000 + '"a"' + ")" * 5000)),
    ("a grammar that repeats itself", _guided("grammar", 'start: a\na: a a a | "x" | ""')),
    ("a megabyte of choices", _guided("choice", ["x" * 10_000] * 100)),
]
