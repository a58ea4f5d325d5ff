"""JSON in JSON in JSON: whatever is nested is answered or refused, and never a fault."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import World


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


@pytest.mark.parametrize("depth", [30, 200, 900])
async def test_what_is_nested(world: World, depth: int) -> None:
    deep = nested(depth)
    message = {"role": "user", "content": "x"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": deep}}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra": deep}
    for path, body in (
        ("chat/completions", {"messages": [message], "tools": [tool]}),
        ("chat/completions", {"messages": [message | {"extra": deep}]}),
        ("chat/completions", {"messages": [message, {"role": "assistant", "tool_calls": [call]}]}),
        ("chat/completions", {"messages": [message], "metadata": deep}),
        ("chat/completions", {"messages": [message], "something": deep}),
        ("responses", {"input": [message | {"extra": deep}]}),
        ("responses", {"input": "x", "tools": [tool["function"] | {"type": "function"}]}),
        ("responses", {"input": "x", "text": {"format": deep}}),
    ):
        reply = await world.post(f"/v1/{path}", **body)
        assert reply.status_code in (200, 400), reply.text
