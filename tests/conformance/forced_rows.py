"""Rows of calls that a model must make, which a grammar holds it to."""

from __future__ import annotations

import json
from typing import Any

import openai
from conformance.response_rows import TIME as RESPONSE_TIME
from conformance.rows import HI, MODEL, Server, row
from conformance.tool_rows import TIME, WEATHER
from pydantic import BaseModel, Field

NAMED = {"type": "function", "function": {"name": "get_weather"}}


@row(
    "tools", "tool_choice: required", "at least one call", "in the model's format, arguments match the schema"
)
def required(server: Server) -> None:
    (choice,) = server.chat(
        tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=64
    ).choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "get_weather")
    assert json.loads(call.function.arguments).keys() == {"city"}


@row("tools", "tool_choice: a function", "this call", "and finish_reason stop, as OpenAI")
def named(server: Server) -> None:
    (choice,) = server.chat(tools=[TIME, WEATHER], tool_choice=NAMED, max_tokens=64).choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("stop", "get_weather")


@row("tools", "tool_choice: allowed_tools", "a selection, auto or required", "the model sees no others")
def allowed(server: Server) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
    (found,) = server.chat(tools=[TIME, WEATHER], tool_choice=choice, max_tokens=64).choices
    assert {call.function.name for call in found.message.tool_calls or []} == {"get_weather"}


@row("tools", "tool_choice: required, streamed", "deltas of the call", "joined, the same call")
def streamed(server: Server) -> None:
    body = {"tools": [WEATHER], "tool_choice": NAMED, "max_tokens": 64}
    whole = server.chat(**body).choices[0].message.tool_calls[0].function.arguments
    parts = [c for chunk in server.chat(**body, stream=True) for c in chunk.choices[0].delta.tool_calls or []]
    assert "".join(part.function.arguments for part in parts) == whole


class get_weather(BaseModel):  # the function is called as the class is
    """The weather in a city now."""

    city: str = Field(max_length=12)


@row("tools", "the client's helpers", "stream and parse typed arguments", "they work")
def helpers(server: Server) -> None:
    body: Any = {"model": MODEL, "messages": HI, "tools": [openai.pydantic_function_tool(get_weather)]}
    body |= {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 64, "temperature": 0}
    with server.openai.chat.completions.stream(**body) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.content is None
    assert final.tool_calls is not None
    whole = server.openai.chat.completions.parse(**body).choices[0].message
    assert whole.tool_calls is not None
    assert final.tool_calls[0].function.parsed_arguments == whole.tool_calls[0].function.parsed_arguments


@row("responses", "tool_choice: a function", "this call", "a function_call item")
def response(server: Server) -> None:
    choice = {"type": "function", "name": "get_time"}
    found = server.respond(tools=[RESPONSE_TIME], tool_choice=choice, max_output_tokens=64)
    assert found.output[0].type == "function_call"
    assert found.output[0].name == "get_time"
