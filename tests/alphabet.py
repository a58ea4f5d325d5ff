"""The vocabulary of the tiny models, whose 96 tokens are the printable characters and an end."""

from __future__ import annotations

import functools
import json
from typing import Any

from pagewire.grammar import Vocabulary
from pagewire.sampling import Grammar

EOS = 1
TOKENS = [b"~", b"", *(bytes([30 + token]) for token in range(2, 96))]


@functools.cache
def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENS, [EOS], [EOS])


def text_of(tokens: list[int]) -> str:
    return b"".join(TOKENS[token] for token in tokens).decode()


def regex(text: str) -> Grammar:
    return Grammar("regex", text)


def schema(value: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "bc", None]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
