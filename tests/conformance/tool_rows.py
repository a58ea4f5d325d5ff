"""Rows of tools in chats."""

from __future__ import annotations

import json
from typing import Any

from conformance.rows import HI, Server, accepted, refused, row

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}


def called(city: str, number: int) -> list[dict[str, Any]]:
    """A question, the call that it led to, and its result."""
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    call = {"id": f"call_{number}", "type": "function", "function": function}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call_{number}", "content": "sunny"},
        {"role": "assistant", "content": f"It is sunny in {city}."},
    ]


# A conversation that has called twice already, after which the demo model does so again.
ASKS = [*called("Paris", 1), *called("Oslo", 2), {"role": "user", "content": "What is the weather in Rome?"}]


@row("tools", "tools", "functions that the model may call", "told to the template; at most 64 of 16 KiB")
def tools(server: Server) -> None:
    with_tools = server.chat(tools=[WEATHER]).usage.prompt_tokens
    assert with_tools > server.chat().usage.prompt_tokens + 30


@row("tools", "tool_choice: auto", "the model decides", "a call in the model's own format is parsed")
def auto(server: Server) -> None:
    (choice,) = server.chat(messages=ASKS, tools=[WEATHER], max_tokens=60).choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert call.id.startswith("call_")
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Rome"}


@row(
    "tools", "delta.tool_calls", "index, id and name first, then arguments", "joined, they are the whole call"
)
def streamed(server: Server) -> None:
    stream = server.chat(messages=ASKS, tools=[WEATHER], max_tokens=60, stream=True)
    parts = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    assert (parts[0].index, parts[0].type, parts[0].function.name) == (0, "function", "get_weather")
    assert all(part.id is None and part.function.name is None for part in parts[1:])
    assert len(parts) > 2
    assert json.loads("".join(part.function.arguments for part in parts)) == {"city": "Rome"}


@row("tools", "tool_choice: none", "no call", "the model is not shown the tools")
def none(server: Server) -> None:
    found = server.chat(tools=[WEATHER], tool_choice="none")
    assert found.choices[0].message.tool_calls is None
    assert found.usage.prompt_tokens == server.chat().usage.prompt_tokens


@row("tools", "tool messages", "role tool with tool_call_id", "results are in the prompt")
def results(server: Server) -> None:
    used = [server.chat(messages=ASKS[:k], tools=[WEATHER]).usage.prompt_tokens for k in (1, 2, 3)]
    assert used[0] + 10 < used[1] < used[2]


@row("tools", "message.content", "null beside calls", "null where there are no words")
def content(server: Server) -> None:
    assert server.chat(messages=ASKS, tools=[WEATHER], max_tokens=60).choices[0].message.content is None


accepted("tools", "parallel_tool_calls", "default true", "false: at most one call", parallel_tool_calls=False)
refused("tools", "tools", "function tools", "tools of another type", path="/v1/chat/completions",
        messages=HI, tools=[{"type": "custom", "custom": {"name": "x"}}])  # fmt: skip
refused("tools", "tool_choice", "a tool that is given", "a name that is not among the tools",
        path="/v1/chat/completions", messages=HI, tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "other"}})  # fmt: skip
