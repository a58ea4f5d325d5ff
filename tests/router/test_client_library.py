"""The official client against a real server on a free port, in the test's own loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import openai
import pytest
import uvicorn
from conftest import ANSWER, KEY, World


@pytest.fixture
async def client(locked: World) -> AsyncIterator[openai.AsyncOpenAI]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(locked.app, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as made:
        yield made
    server.should_exit = True
    await task
    listener.close()


HI = [{"role": "user", "content": "Hi"}]


async def test_chat(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="demo", messages=HI, seed=1)  # type: ignore[arg-type]
    assert reply.choices[0].message.content == ANSWER
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None


async def test_streamed_chat_with_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="demo",
        messages=HI,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[-1].usage is not None


async def test_n_logprobs_and_stop(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="demo",
        messages=HI,  # type: ignore[arg-type]
        n=2,
        logprobs=True,
        top_logprobs=3,
        stop="is a",
    )
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "stop"]
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 3


async def test_completions(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(model="demo", prompt=["one", "two"], logprobs=1, echo=True)
    assert [choice.text.startswith(p) for choice, p in zip(reply.choices, ("one", "two"), strict=True)]
    assert reply.choices[1].logprobs is not None


async def test_streamed_completions(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="demo", prompt="x", max_tokens=99, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == ANSWER


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["demo", "other"]
    assert (await client.models.retrieve("demo")).owned_by == "pagewire"


async def test_errors_are_the_clients_own(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-9", messages=HI)  # type: ignore[arg-type]
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(model="demo", prompt=[5] * 999)
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()


async def test_a_closed_stream_stops_the_request(client: openai.AsyncOpenAI, locked: World) -> None:
    locked.cluster.hold_at = 3
    stream = await client.completions.create(model="demo", prompt="x", stream=True)
    await anext(aiter(stream))
    await stream.close()
    await locked.until(lambda: locked.service.inflight == 0)
    assert locked.cluster.cancelled() == {("prefill-0", 0), ("decode-0", 0)}
