"""Rows of streams of chats and completions."""

from __future__ import annotations

import json
from typing import Any

from conformance.rows import HI, STORY, Server, refused, row
from openai.types.chat import ChatCompletionChunk


def chunks(server: Server, path: str = "/v1/chat/completions", **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which must end as streams do."""
    base: dict[str, Any] = {"messages": HI} if "chat" in path else {"prompt": STORY}
    given = base | {"stream": True, "max_tokens": 4, "temperature": 0} | body
    reply = server.http.post(path, json=given)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [line for line in reply.text.split("\n\n") if line]
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


@row("streams", "stream", "server-sent events, then [DONE]", "each a chunk in the client's types")
def stream(server: Server) -> None:
    found = [ChatCompletionChunk.model_validate_json(json.dumps(c), strict=True) for c in chunks(server)]
    assert len({chunk.id for chunk in found}) == 1
    assert found[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in found) == server.text()
    assert [c.choices[0].finish_reason for c in found if c.choices[0].finish_reason] == ["length"]


@row("streams", "usage", "no usage unless asked for", "the field is absent")
def no_usage(server: Server) -> None:
    assert all("usage" not in chunk for chunk in chunks(server))


@row("streams", "stream_options.include_usage", "null in chunks, then one without choices", "as documented")
def include_usage(server: Server) -> None:
    *before, last = chunks(server, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in before)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4


@row(
    "streams",
    "stream_options.continuous_usage_stats",
    "vLLM: usage in every chunk",
    "with include_usage, as vLLM",
)
def continuous(server: Server) -> None:
    found = chunks(server, stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in found]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    alone = chunks(server, stream_options={"continuous_usage_stats": True})
    assert all("usage" not in chunk for chunk in alone)


@row("streams", "n", "choices side by side", "chunks say their index")
def n(server: Server) -> None:
    said = ["", ""]
    for chunk in chunks(server, n=2, temperature=1, seed=5):
        (choice,) = chunk["choices"]
        said[choice["index"]] += choice["delta"].get("content") or ""
    whole = server.chat(n=2, temperature=1, seed=5).choices
    assert said == [choice.message.content for choice in whole]


@row("streams", "logprobs", "in the chunk of the token", "as documented")
def logprobs(server: Server) -> None:
    found = [c["choices"][0]["logprobs"] for c in chunks(server, logprobs=True, top_logprobs=1)]
    assert sum(len(part["content"]) for part in found if part) == 4


@row("streams", "/v1/completions", "chunks of text", "text_completion, joined the whole text")
def completions(server: Server) -> None:
    found = chunks(server, "/v1/completions")
    assert {chunk["object"] for chunk in found} == {"text_completion"}
    assert "".join(c["choices"][0]["text"] for c in found) == server.complete().choices[0].text


refused(
    "streams", "stream_options", "only with stream", "without stream", path="/v1/chat/completions",
    messages=HI, stream_options={"include_usage": True},
)  # fmt: skip


@row("streams", "errors", "an HTTP error before the first event", "status and error object, no stream")
def errors(server: Server) -> None:
    reply = server.raw_chat(stream=True, temperature=-1)
    assert reply.status_code == 400
    assert reply.headers["content-type"] == "application/json"
