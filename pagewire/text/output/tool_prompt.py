"""Tools for a model whose chat template shows none: told in a system message, and past calls as text.

Knows OpenAI's messages; knows no template. A template that knows tools is left to do it in its own words.
"""

from __future__ import annotations

import json
from typing import Any

from pagewire.text.output.calls import Format
from pagewire.text.output.formats import written

_INTRODUCTION = """You can call functions. These are the functions, one JSON object a line:
{tools}
To call one, write its name and its arguments in this form, and nothing else:
{example}"""


def told(messages: list[dict[str, Any]], tools: list[dict[str, Any]], form: Format) -> list[dict[str, Any]]:
    """``messages`` with ``tools`` in the first, and with calls and results in plain messages."""
    plain = [_plain(message, form) for message in messages]
    if not tools:
        return plain
    words = _INTRODUCTION.format(
        tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools),
        example=written(form, "NAME", "{...}"),
    )
    system = _text(plain[0].get("content")) if plain and plain[0]["role"] == "system" else None
    if system is not None:
        return [{**plain[0], "content": f"{system}\n\n{words}"}, *plain[1:]]
    return [{"role": "system", "content": words}, *plain]


def _plain(message: dict[str, Any], form: Format) -> dict[str, Any]:
    words = _text(message.get("content"))
    if message["role"] == "tool" and words is not None:
        return {"role": "user", "content": f"The function returned:\n{words}"}
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return message
    said = [words] if words else []
    text = "\n".join([*said, *(_called(call, form) for call in calls)])
    return {"role": message["role"], "content": text}


def _called(call: Any, form: Format) -> str:
    """What is no call is told by the template's own check."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return ""
    return written(form, str(function.get("name")), str(function.get("arguments") or "{}"))


def _text(content: Any) -> str | None:
    """None if it is no text: the template's own check will say so."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts = [part.get("text") if isinstance(part, dict) else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if len(texts) == len(parts) else None
