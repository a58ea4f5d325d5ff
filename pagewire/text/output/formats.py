"""The formats in which models call tools, and which of them a model was taught.

Knows chat templates only as text to look for marks in; knows no request. ``forced`` writes the grammar of a
text that is nothing but calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pagewire.sampling import Grammar
from pagewire.text.output.calls import Format

MAX_CALLS = 16  # that a grammar lets a model make in one answer

HERMES = Format("hermes", opening="<tool_call>", closing="</tool_call>")
LLAMA3_JSON = Format("llama3_json", opening="<|python_tag|>", bare=True, between=";,", key="parameters")
FORMATS = {form.name: form for form in (HERMES, LLAMA3_JSON)}

_JOIN = {HERMES.name: "\n", LLAMA3_JSON.name: "; "}
# What models were shown in training is Python's own way of writing JSON.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def format_of(template: str) -> Format:
    """The format that a chat template shows; Hermes's where it shows none."""
    if HERMES.opening not in template and (
        LLAMA3_JSON.opening in template or ('"parameters"' in template and "ipython" in template)
    ):
        return LLAMA3_JSON
    return HERMES


def written(form: Format, name: str, arguments: str) -> str:
    """A call as a model writes it; ``arguments`` is JSON."""
    call = f'{{"name": {json.dumps(name)}, "{form.key}": {arguments}}}'
    return f"{form.opening}\n{call}\n{form.closing}" if form.closing else call


def forced(form: Format, tools: Sequence[Mapping[str, Any]], limit: int | None = None) -> Grammar:
    """The grammar of one or more calls of ``tools``, each an OpenAI function with a name that needs no
    quoting.
    """
    last = min(limit or MAX_CALLS, MAX_CALLS) - 1
    more = f" ({json.dumps(_JOIN[form.name])} call){{0,{last}}}" if last else ""
    rules = [f"start: call{more}", "call: " + " | ".join(f"call{at}" for at in range(len(tools)))]
    for at, tool in enumerate(tools):
        before, after = written(form, tool["name"], "\0").split("\0")
        rules.append(f"call{at}: {json.dumps(before)} args{at} {json.dumps(after)}")
        rules.append(f"args{at}: %json {json.dumps(_schema(tool), ensure_ascii=False)}")
    return Grammar("lark", "\n".join(rules) + "\n")


def arguments_of(tool: Mapping[str, Any]) -> Grammar:
    """The grammar of one tool's arguments alone, to say which tool's schema is at fault."""
    return Grammar("json_schema", json.dumps(_schema(tool), ensure_ascii=False))


def _schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments are an object whatever the schema leaves open, and written as models write JSON."""
    given = tool.get("parameters") or {}
    schema = {"type": "object", **given} if "$ref" not in given else dict(given)
    return {**schema, "x-guidance": _JSON_STYLE}
