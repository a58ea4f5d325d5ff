from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import World, running
from test_tools_api import CALL, TIME, WEATHER, assembled, events

from pagewire.text.output.dialect import DEEPSEEK_R1, QWEN3, Dialect
from pagewire.text.tokenizer import Tokenizer

THOUGHT = "<think>\nHm, well.\n</think>\n\nYes."


@pytest.fixture
async def thinker(tokenizer: Tokenizer) -> AsyncIterator[World]:
    async with running(World(tokenizer, dialect=Dialect(reasoning=QWEN3)), "prefill-0", "decode-0") as made:
        yield made


async def ask(world: World, text: str, **body: Any) -> dict[str, Any]:
    world.say(text)
    reply = await world.chat(**{"max_tokens": 100} | body)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def test_thinking_is_told_apart(thinker: World) -> None:
    message = (await ask(thinker, THOUGHT))["choices"][0]["message"]
    assert message["content"] == "Yes."
    assert message["reasoning"] == message["reasoning_content"] == "Hm, well."


async def test_thinking_is_streamed(thinker: World) -> None:
    thinker.say(THOUGHT)
    chunks = events(await thinker.chat(stream=True, max_tokens=100))
    message = assembled(chunks)
    assert (message["reasoning"], message["content"]) == ("Hm, well.", "Yes.")


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_of_thinking_are_counted(thinker: World, stream: bool) -> None:
    if stream:
        thinker.say(THOUGHT)
        body = {"stream_options": {"include_usage": True}}
        usage = events(await thinker.chat(stream=True, max_tokens=100, **body))[-1]["usage"]
    else:
        usage = (await ask(thinker, THOUGHT))["usage"]
    answer = len(thinker.tokenizer.encode("\n\nYes.", add_special_tokens=False)) + 1  # and the end
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert thought > 0
    assert thought + answer == usage["completion_tokens"]


async def test_an_answer_without_thinking(thinker: World) -> None:
    reply = await ask(thinker, "Yes.")
    assert reply["choices"][0]["message"]["content"] == "Yes."
    assert "reasoning" not in reply["choices"][0]["message"]
    assert reply["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_a_call_after_thinking(thinker: World) -> None:
    choice = (await ask(thinker, f"<think>Hm.</think>{CALL}", tools=[WEATHER, TIME]))["choices"][0]
    assert choice["message"]["reasoning"] == "Hm."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert choice["finish_reason"] == "tool_calls"


async def test_a_model_that_thinks_without_an_opening_mark(tokenizer: Tokenizer) -> None:
    world = World(tokenizer, dialect=Dialect(reasoning=DEEPSEEK_R1))
    async with running(world, "prefill-0", "decode-0"):
        message = (await ask(world, "Hm.</think>Yes."))["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("Hm.", "Yes.")


async def test_a_prompt_that_opens_the_thinking(thinker: World) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "<think>"}]
    thinker.say("Hm.</think>Yes.")
    body = {"continue_final_message": True, "messages": messages}
    reply = await thinker.post("/v1/chat/completions", max_tokens=100, **body)
    message = reply.json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("Hm.", "Yes.")


async def test_a_prompt_that_has_closed_the_thinking(thinker: World) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "<think>\n</think>"}]
    thinker.say("<think> is a word.")
    body = {"continue_final_message": True, "messages": messages}
    reply = await thinker.post("/v1/chat/completions", max_tokens=100, **body)
    assert reply.json()["choices"][0]["message"]["content"] == "<think> is a word."


@pytest.mark.parametrize(
    "kwargs", [{"tools": "x"}, {"messages": "x"}, {"enable_thinking": "x" * 65}, {"enable_thinking": []}, 5]
)
async def test_a_template_is_told_only_plain_known_things(thinker: World, kwargs: Any) -> None:
    reply = await thinker.chat(chat_template_kwargs=kwargs)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "chat_template_kwargs")


async def test_what_a_template_may_be_told_passes(thinker: World) -> None:
    body = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    assert (await thinker.chat(**body)).status_code == 200
