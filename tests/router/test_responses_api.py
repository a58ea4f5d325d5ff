"""``/v1/responses`` through the official client, on scripted nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from conftest import ANSWER, Checked, World, running
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from router_stubs import failed, peer
from test_tools_api import CALL

from pagewire.text.output.dialect import QWEN3, Dialect
from pagewire.text.tokenizer import Tokenizer

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
async def thinker(tokenizer: Tokenizer) -> AsyncIterator[World]:
    """Answers with thinking, words and a call."""
    world = World(tokenizer, dialect=Dialect(reasoning=QWEN3), grammars=Checked())
    world.say(f"<think>Hm.</think>Well.\n{CALL}")
    async with running(world, "prefill-0", "decode-0"):
        yield world


def client(world: World) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", max_retries=0, http_client=world.http)


async def create(world: World, given: Any = "Hi", **body: Any) -> Any:
    return await client(world).responses.create(model="demo", input=given, **body)


async def raw_events(world: World, **body: Any) -> list[dict[str, Any]]:
    reply = await world.post("/v1/responses", input="Hi", stream=True, **body)
    assert reply.status_code == 200, reply.text
    blocks = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name.removeprefix("event: ") for name, _ in blocks] == [event["type"] for event in events]
    return events


def parts(kind: str, text: str) -> list[dict[str, str]]:
    return [{"type": kind, "text": text}]


def prompt(world: World) -> str:
    return world.tokenizer.decode(world.cluster.requests()[-1].tokens, skip_special_tokens=False)


async def test_a_text_is_answered(world: World) -> None:
    reply = await create(world, max_output_tokens=50)
    assert reply.output_text == ANSWER
    assert (reply.status, reply.error, reply.incomplete_details) == ("completed", None, None)
    assert reply.usage.output_tokens == len(world.answer) + 1
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert (reply.model_extra or {})["store"] is False


async def test_a_response_is_what_the_clients_types_say(thinker: World) -> None:
    reply = await thinker.post("/v1/responses", input="Hi", tools=[WEATHER], max_output_tokens=90)
    Response.model_validate_json(reply.content, strict=True)
    kinds = [item["type"] for item in reply.json()["output"]]
    assert kinds == ["reasoning", "message", "function_call"]


async def test_an_answer_that_is_cut_off_is_incomplete(world: World) -> None:
    reply = await create(world, max_output_tokens=2)
    assert reply.status == "incomplete"
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.output[0].status == "incomplete"


async def test_instructions_and_items_are_the_prompt(world: World) -> None:
    items = [
        {"role": "user", "content": parts("input_text", "When?")},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm"}],
        },
        {"type": "function_call", "call_id": "c1", "name": "get_time", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "get_date", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "half past two"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": parts("input_text", "Friday"),
        },
        {"type": "message", "role": "assistant", "content": parts("output_text", "Now.")},
        {"role": "developer", "content": "Short!"},
    ]
    await create(world, items, instructions="Be kind.")
    text = prompt(world)
    words = ["Be kind.", "When?", "get_time", "get_date", "half past two", "Friday", "Now.", "Short!"]
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    assert text.count("<|im_start|>assistant") == 3  # both calls are one turn; the last is to be written


async def test_the_output_of_a_response_is_input_of_the_next(thinker: World) -> None:
    first = await create(thinker, tools=[WEATHER], max_output_tokens=90)
    call = first.output[-1]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    given = [{"role": "user", "content": "Hi"}, *first.output, result]
    assert (await create(thinker, given, tools=[WEATHER], max_output_tokens=20)).status
    assert "rain" in prompt(thinker)


async def test_a_stream_tells_of_every_item(thinker: World) -> None:
    events = await raw_events(thinker, tools=[WEATHER], max_output_tokens=90)
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] == "completed"
    once = [kind for at, kind in enumerate(kinds) if kind not in kinds[:at]]
    assert once == [
        "created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done", "output_text.delta",
        "output_text.done", "function_call_arguments.delta",
        "function_call_arguments.done", "completed",
    ]  # fmt: skip
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == events[-1]["response"]["output"]


@pytest.mark.parametrize("kind", ["output_text", "reasoning_text", "function_call_arguments"])
async def test_deltas_joined_are_what_is_done(thinker: World, kind: str) -> None:
    events = await raw_events(thinker, tools=[WEATHER], max_output_tokens=90)
    joined = "".join(event["delta"] for event in events if event["type"] == f"response.{kind}.delta")
    (done,) = (event for event in events if event["type"] == f"response.{kind}.done")
    assert joined == done.get("text", done.get("arguments")) != ""


async def test_the_clients_stream_helper_assembles_it(thinker: World) -> None:
    tools: Any = [WEATHER]
    body: Any = {"model": "demo", "input": "Hi", "tools": tools, "max_output_tokens": 90}
    async with client(thinker).responses.stream(**body) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_text == "Well."
    assert json.loads(final.output[-1].arguments) == {"city": "Köln"}  # type: ignore[union-attr]
    assert final.usage is not None
    assert final.usage.output_tokens_details.reasoning_tokens > 0


async def test_log_probabilities_where_they_are_asked_for(world: World) -> None:
    include = ["message.output_text.logprobs"]
    reply = await create(world, include=include, top_logprobs=2, max_output_tokens=5)
    entries = reply.output[0].content[0].logprobs
    assert len(entries) == 5
    assert len(entries[0].top_logprobs) == 2


async def test_a_forced_call(thinker: World) -> None:
    choice: Any = {"type": "function", "name": "get_weather"}
    reply = await create(thinker, tools=[WEATHER], tool_choice=choice, max_output_tokens=90)
    assert thinker.cluster.requests()[-1].sampling.grammar is not None
    assert reply.tool_choice.name == "get_weather"


async def test_a_stream_that_fails_later_says_so(world: World) -> None:
    world.cluster.hold_at = 2
    reply = asyncio.create_task(world.post("/v1/responses", input="Hi", stream=True))
    await world.until(lambda: any(m.first_at for m in world.service.requests._inflight.values()))
    (request,) = world.cluster.requests()
    world.cluster.say(peer("decode-0"), failed(peer("decode-0"), request, retryable=False))
    assert "event: response.failed" in (await reply).text
    assert "secret words" not in (await reply).text


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("input", {"input": None}),
        ("input", {"input": []}),
        ("input", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("input", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
        ("input", {"input": [{"type": "function_call", "name": "f"}]}),
        ("previous_response_id", {"previous_response_id": "resp_1"}),
        ("conversation", {"conversation": "conv_1"}),
        ("background", {"background": True}),
        ("store", {"store": True}),
        ("prompt", {"prompt": {"id": "x"}}),
        ("truncation", {"truncation": "auto"}),
        ("tools", {"tools": [{"type": "web_search"}]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("temperature", {"temperature": -1}),
        ("top_logprobs", {"top_logprobs": 99}),
        ("reasoning", {"reasoning": {"effort": "gigantic"}}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_done_is_refused_by_name(world: World, field: str, body: dict[str, Any]) -> None:
    reply = await world.post("/v1/responses", **{"input": "Hi"} | body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, field)
    assert world.cluster.requests() == []


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("GET", "/v1/responses/resp_1", "stored"),
        ("DELETE", "/v1/responses/resp_1", "stored"),
        ("GET", "/v1/chat/completions/x", "stored"),
        ("POST", "/v1/embeddings", "embeddings"),
        ("POST", "/v1/moderations", "moderation"),
        ("POST", "/v1/audio/speech", "audio"),
        ("POST", "/v1/batches", "batches"),
    ],
)
async def test_other_routes_of_openais_say_why_they_are_not_here(
    world: World, method: str, path: str, word: str
) -> None:
    reply: httpx.Response = await world.http.request(method, path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_served")
    assert word in reply.json()["error"]["message"]
