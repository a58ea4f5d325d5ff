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
    """``messages``, in the shape of ``pagewire.text.chat.shaped``, with ``tools`` in the first and with calls
    and results in plain messages.
    """
    plain = [_plain(message, form) for message in messages]
    if not tools:
        return plain
    words = _INTRODUCTION.format(
        tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools),
        example=written(form, "NAME", "{...}"),
    )
    if plain[0]["role"] == "system" and plain[0].get("content"):
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{words}"}, *plain[1:]]
    return [{"role": "system", "content": words}, *plain]


def _plain(message: dict[str, Any], form: Format) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"The function returned:\n{message.get('content') or ''}"}
    if not message.get("tool_calls"):
        return message
    calls = [
        written(form, str(function.get("name")), json.dumps(function["arguments"] or {}, ensure_ascii=False))
        for function in (call["function"] for call in message["tool_calls"])
    ]
    said = [message["content"]] if message.get("content") else []
    return {"role": message["role"], "content": "\n".join([*said, *calls])}
