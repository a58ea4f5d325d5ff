"""What a client says about the form of its answer, as a grammar: OpenAI's field and vLLM's.

``response_format`` is OpenAI's; ``structured_outputs`` is vLLM's, and ``guided_json`` and its like are what
that was called before. Knows their shapes and how large what they hold may be; whether it is a schema or a
regular expression at all, ``router.grammar_check`` finds out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from pagewire.errors import RequestError
from pagewire.sampling import Grammar
from router.schemas import GenerationBody

MAX_TEXT = 32 << 10  # bytes of a schema or grammar
MAX_DEPTH = 32  # lists and objects of a schema in each other: 16 objects with properties
MAX_REGEX = 512  # characters
MAX_CHOICES = 256
ANY_OBJECT = Grammar("json_schema", '{"type":"object"}')

_ELSEWHERE = ("structural_tag", "whitespace_pattern")  # vLLM's, and not served

Make = Callable[[Any, str], Grammar]


def grammar_of(body: GenerationBody) -> Grammar | None:
    """What the answer must match; None: anything. Raises RequestError with the path of what is wrong."""
    asked = list(_asked(body))
    if len(asked) > 1:
        raise RequestError(f"{asked[0][0]} and {asked[1][0]} cannot be given together", param=asked[1][0])
    return asked[0][2](asked[0][1], asked[0][0]) if asked else None


def param_of(body: GenerationBody) -> str:
    """Where the grammar of ``grammar_of`` was given."""
    return next(_asked(body))[0]


def _asked(body: GenerationBody) -> Iterator[tuple[str, Any, Make]]:
    """Each place that asks for a form: its path, what it holds, and what makes a grammar of that."""
    yield from _response_format(body.response_format)
    yield from _structured_outputs(body.structured_outputs)
    for kind, value in (
        ("json", body.guided_json),
        ("regex", body.guided_regex),
        ("choice", body.guided_choice),
        ("grammar", body.guided_grammar),
    ):
        if value is not None:
            yield f"guided_{kind}", value, _MAKERS[kind]


def _response_format(given: dict[str, Any] | None) -> Iterator[tuple[str, Any, Make]]:
    kind = "text" if given is None else given.get("type")
    if kind == "json_object":
        yield "response_format", True, _any_object
    elif kind == "json_schema":
        assert given is not None
        yield "response_format.json_schema.schema", _named_schema(given.get("json_schema")), _json
    elif kind != "text":
        raise RequestError(
            "response_format.type must be text, json_object or json_schema", param="response_format.type"
        )


def _named_schema(given: Any) -> Any:
    """The schema of OpenAI's ``json_schema``. It is kept to whether ``strict`` asks for that or not."""
    param = "response_format.json_schema"
    if not isinstance(given, dict):
        raise RequestError(f"{param} must be an object with name and schema", param=param)
    if not isinstance(given.get("name"), str):
        raise RequestError(f"{param}.name must be a string", param=f"{param}.name")
    if not isinstance(given.get("strict"), bool | None):
        raise RequestError(f"{param}.strict must be true or false", param=f"{param}.strict")
    if given.get("schema") is None:
        raise RequestError(f"{param}.schema is required", param=f"{param}.schema")
    return given["schema"]


def _structured_outputs(given: dict[str, Any] | None) -> Iterator[tuple[str, Any, Make]]:
    if given is None:
        return
    for name in _ELSEWHERE:
        if given.get(name) is not None:
            path = f"structured_outputs.{name}"
            raise RequestError(f"{path} is not supported by this server", param=path)
    found = [name for name in _MAKERS if given.get(name) not in (None, False)]
    if not found:
        kinds = ", ".join(_MAKERS)
        raise RequestError(f"structured_outputs needs one of {kinds}", param="structured_outputs")
    for name in found:
        yield f"structured_outputs.{name}", given[name], _MAKERS[name]


# --- one kind each ------------------------------------------------------------------------------------------


def _any_object(given: Any, param: str) -> Grammar:
    if given is not True:
        raise RequestError(f"{param} must be true or false", param=param)
    return ANY_OBJECT


def _json(given: Any, param: str) -> Grammar:
    """A schema is an object, or the text of one."""
    schema = _parsed(given, param) if isinstance(given, str) else given
    if not isinstance(schema, dict):
        raise RequestError(f"{param} must be a JSON schema: an object", param=param)
    if _depth(schema) > MAX_DEPTH:
        raise RequestError(f"{param} is nested more than {MAX_DEPTH} deep", param=param)
    return Grammar("json_schema", _within(json.dumps(schema, separators=(",", ":")), param))


def _parsed(text: str, param: str) -> Any:
    try:
        return json.loads(_within(text, param))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{param} is not JSON", param=param) from error


def _depth(value: Any) -> int:
    """How many lists and objects lie in each other. Level by level, since too many would end a recursion."""
    depth, level = 0, [value]
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [x for part in level for x in (part.values() if isinstance(part, dict) else part)]
    return depth


def _regex(given: Any, param: str) -> Grammar:
    if not isinstance(given, str) or not 0 < len(given) <= MAX_REGEX:
        raise RequestError(f"{param} must be a string of 1 to {MAX_REGEX} characters", param=param)
    return Grammar("regex", given)


def _choice(given: Any, param: str) -> Grammar:
    """One of some texts, as they are."""
    if not isinstance(given, list) or not 0 < len(given) <= MAX_CHOICES:
        raise RequestError(f"{param} must be a list of 1 to {MAX_CHOICES} strings", param=param)
    if not all(isinstance(text, str) and text for text in given):
        raise RequestError(f"{param} must hold strings that are not empty", param=param)
    return Grammar("lark", _within("start: " + " | ".join(map(json.dumps, given)), param))


def _grammar(given: Any, param: str) -> Grammar:
    if not isinstance(given, str) or not given:
        raise RequestError(f"{param} must be a grammar in Lark's form, which begins with start:", param=param)
    if "::=" in given and "start:" not in given:
        raise RequestError(f"{param}: write it in Lark's form (start: ...), not as root ::= ...", param=param)
    return Grammar("lark", _within(given, param))


def _within(text: str, param: str) -> str:
    if len(text.encode()) > MAX_TEXT:
        raise RequestError(f"{param} is larger than {MAX_TEXT} bytes", param=param)
    return text


_MAKERS: dict[str, Make] = {
    "json": _json,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "json_object": _any_object,
}
