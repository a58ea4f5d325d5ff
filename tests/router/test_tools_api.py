from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from conftest import Checked, World, running

from pagewire.text.output.dialect import Dialect
from pagewire.text.output.formats import LLAMA3_JSON
from pagewire.text.tokenizer import Tokenizer
from router.schemas import MAX_TOOLS

CHAT = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
async def held(tokenizer: Tokenizer) -> AsyncIterator[World]:
    """A router that can hold a model to a grammar."""
    async with running(World(tokenizer, grammars=Checked()), "prefill-0", "decode-0") as made:
        yield made


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def assembled(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together from the deltas of choice 0."""
    message: dict[str, Any] = {"content": None}
    calls: list[dict[str, Any]] = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if delta.get("content"):
                message["content"] = (message["content"] or "") + delta["content"]
            if "reasoning" in delta:
                message["reasoning"] = message.get("reasoning", "") + delta["reasoning"]
            for part in delta.get("tool_calls", []):
                if "id" in part:
                    calls.append({"id": part["id"], "type": part["type"], "function": {**part["function"]}})
                else:
                    calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return message | ({"tool_calls": calls} if calls else {})


async def ask(world: World, **body: Any) -> dict[str, Any]:
    reply = await world.chat(**{"tools": [WEATHER, TIME], "max_tokens": 100} | body)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]  # type: ignore[no-any-return]


async def test_a_call_comes_back_as_one(world: World) -> None:
    world.say(f"Let me look.\n{CALL}")
    choice = await ask(world)
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Köln"}'}


async def test_a_message_of_nothing_but_calls_has_no_content(world: World) -> None:
    world.say(f"{CALL}\n{CALL}")
    message = (await ask(world))["message"]
    assert message["content"] is None
    assert len({call["id"] for call in message["tool_calls"]}) == 2


async def test_a_stream_of_calls_is_the_whole_of_them(world: World) -> None:
    world.say(f"Well. {CALL}\n{CALL}")
    whole = (await ask(world))["message"]
    chunks = events(await world.chat(tools=[WEATHER], max_tokens=100, stream=True))
    message = assembled(chunks)
    assert message["content"] == whole["content"]
    assert [c["function"] for c in message["tool_calls"]] == [c["function"] for c in whole["tool_calls"]]
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "tool_calls"
    assert len(chunks) > 8  # arguments come as they are written


async def test_parallel_tool_calls_false_leaves_one(world: World) -> None:
    world.say(f"{CALL}\n{CALL}")
    assert len((await ask(world, parallel_tool_calls=False))["message"]["tool_calls"]) == 1


async def test_without_tools_the_same_text_is_content(world: World) -> None:
    world.say(CALL)
    for body in ({"tools": None}, {"tools": []}, {"tool_choice": "none"}):
        choice = await ask(world, **body)
        assert choice["message"]["content"] == CALL
        assert choice["finish_reason"] == "stop"


async def test_text_that_is_no_call_is_content(world: World) -> None:
    world.say("<tool_call>\nget_weather()\n</tool_call>")
    choice = await ask(world)
    assert choice["message"]["content"] == "<tool_call>\nget_weather()\n</tool_call>"
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


async def test_an_answer_cut_off_amid_a_call_ends_for_length(world: World) -> None:
    world.say(CALL)
    choice = await ask(world, max_tokens=24)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


async def test_llamas_format(tokenizer: Tokenizer) -> None:
    world = World(tokenizer, dialect=Dialect(LLAMA3_JSON))
    async with running(world, "prefill-0", "decode-0"):
        world.say(
            '{"name": "get_time", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "x"}}'
        )
        calls = (await ask(world))["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_time", "get_weather"]


async def test_special_tokens_that_mark_calls_are_seen(tokenizer: Tokenizer) -> None:
    mark = tokenizer.encode("<|im_start|>", add_special_tokens=False)[0]
    assert mark in tokenizer.special_ids
    world = World(tokenizer, dialect=Dialect(marks=frozenset({mark})))
    async with running(world, "prefill-0", "decode-0"):
        world.say("a<|im_start|>b")
        assert (await ask(world))["message"]["content"] == "a<|im_start|>b"
        assert (await ask(world, tools=None))["message"]["content"] == "ab"
        shown = await ask(world, tools=None, skip_special_tokens=False)
        assert shown["message"]["content"] == "a<|im_start|>b"


# --- prompts ------------------------------------------------------------------------------------------------


def prompt(world: World) -> str:
    return world.tokenizer.decode(world.cluster.requests()[-1].tokens, skip_special_tokens=False)


async def test_a_model_without_a_template_for_tools_is_told_of_them(world: World) -> None:
    await ask(world)
    assert "The weather now." in prompt(world)
    assert "<tool_call>" in prompt(world)


async def test_tools_that_may_not_be_called_are_not_shown(world: World) -> None:
    await ask(world, tool_choice="none")
    assert "get_weather" not in prompt(world)


async def test_calls_and_results_of_before_are_in_the_prompt(world: World) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "half past two"},
    ]
    reply = await world.post(CHAT, messages=messages, tools=[TIME])
    assert reply.status_code == 200, reply.text
    assert '{"name": "get_time", "arguments": {"a": 1}}' in prompt(world)
    assert "half past two" in prompt(world)


@pytest.mark.parametrize(
    "call", [5, {}, {"function": 5}, {"function": {"name": "f", "arguments": "{"}},
             {"function": {"name": "f", "arguments": "[" * 100_000}}]
)  # fmt: skip
async def test_a_call_of_before_that_is_none_is_refused(world: World, call: object) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    reply = await world.post(CHAT, messages=messages)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages[1].tool_calls[0]")


# --- calls that must be made --------------------------------------------------------------------------------


async def test_required_holds_the_model_to_calls(held: World) -> None:
    held.say(CALL)
    choice = await ask(held, tool_choice="required")
    (sent,) = held.cluster.requests()
    assert sent.sampling.grammar is not None
    assert "get_time" in sent.sampling.grammar.text
    assert choice["finish_reason"] == "tool_calls"


async def test_a_named_tool_is_the_only_one(held: World) -> None:
    held.say(CALL)
    choice = await ask(held, tool_choice=NAMED)
    (sent,) = held.cluster.requests()
    assert sent.sampling.grammar is not None
    assert "get_time" not in sent.sampling.grammar.text
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert choice["finish_reason"] == "stop"  # as OpenAI has it: the client knew that a call would come


async def test_a_selection_of_tools(held: World) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}
    await ask(held, tool_choice=choice)
    assert "get_time" not in prompt(held)
    assert held.cluster.requests()[-1].sampling.grammar is None


# --- refusals -----------------------------------------------------------------------------------------------

TALL = {"type": "function", "function": {"name": "f", "description": "x" * 17_000}}


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("tool_choice", {"tools": None, "tool_choice": "required"}),
        ("tool_choice", {"tools": None, "tool_choice": NAMED}),
        ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "other"}}}),
        ("tool_choice", {"tool_choice": "sometimes"}),
        ("tool_choice", {"tool_choice": 5}),
        ("tools", {"tools": [{"type": "web_search"}]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "x" * 65}}]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}),
        (
            "tools",
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
        ),
        ("tools", {"tools": [TIME, TIME]}),
        ("tools", {"tools": [TALL]}),
        ("tools", {"tools": [TIME] * (MAX_TOOLS + 1)}),
        ("functions", {"functions": [{"name": "f"}]}),
        ("function_call", {"function_call": {"name": "f"}}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_wrong_tools_are_refused_by_name(world: World, field: str, body: dict[str, Any]) -> None:
    reply = await world.chat(**{"tools": [TIME]} | body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert world.cluster.requests() == []


async def test_a_server_without_tools_says_so(tokenizer: Tokenizer) -> None:
    async with running(World(tokenizer, tool_call_parser="none"), "prefill-0", "decode-0") as world:
        reply = await world.chat(tools=[TIME])
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools")
