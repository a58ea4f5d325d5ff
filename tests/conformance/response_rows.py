"""Rows of ``/v1/responses``."""

from __future__ import annotations

import json
from typing import Any

from conformance.rows import MODEL, Server, accepted, refused, row
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TIME = {"type": "function", "name": "get_time", "parameters": {"type": "object"}}


def raw(server: Server, **body: Any) -> Any:
    given = {"input": "Say hello.", "temperature": 0, "max_output_tokens": 4} | body
    return server.http.post("/v1/responses", json=given)


def events(server: Server, **body: Any) -> list[dict[str, Any]]:
    blocks = raw(server, stream=True, **body).text.strip().split("\n\n")
    found = [json.loads(block.split("\n")[1].removeprefix("data: ")) for block in blocks]
    assert [block.split("\n")[0] for block in blocks] == [f"event: {event['type']}" for event in found]
    return found


@row("responses", "reply", "id, object, status, output, usage, ...", "all, in the client's types")
def reply(server: Server) -> None:
    found = Response.model_validate_json(raw(server).content, strict=True)
    assert found.id.startswith("resp_")
    assert (found.object, found.model, found.error) == ("response", MODEL, None)
    assert found.output[0].type == "message"


@row("responses", "input", "a text", "a user's message, as in a chat")
def text(server: Server) -> None:
    assert server.respond().output_text == server.text()


@row("responses", "input items", "messages, function calls and their outputs, reasoning", "as in a chat")
def items(server: Server) -> None:
    call = {"call_id": "c", "name": "get_time", "arguments": "{}"}
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "What time is it?"}]},
        {"type": "function_call", **call},
        {"type": "function_call_output", "call_id": "c", "output": "noon"},
    ]
    used = raw(server, input=given, tools=[TIME]).json()["usage"]["input_tokens"]
    assert used > raw(server, input=given[:1], tools=[TIME]).json()["usage"]["input_tokens"] + 10


@row("responses", "instructions", "a system message", "the first message, and in the reply")
def instructions(server: Server) -> None:
    found = server.respond(instructions="Be brief.")
    assert found.instructions == "Be brief."
    assert found.usage.input_tokens > server.respond(instructions="Be.").usage.input_tokens


@row("responses", "max_output_tokens", "upper bound", "status incomplete, incomplete_details.reason")
def max_output_tokens(server: Server) -> None:
    found = server.respond(max_output_tokens=2)
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert found.usage.output_tokens == 2


@row(
    "responses",
    "usage",
    "input, output and total tokens, with details",
    "cached and reasoning tokens as details",
)
def usage(server: Server) -> None:
    used = server.respond().usage
    assert used.total_tokens == used.input_tokens + used.output_tokens
    assert 0 <= used.input_tokens_details.cached_tokens <= used.input_tokens


@row("responses", "temperature, top_p", "as in chats", "as in chats, and in the reply")
def temperature(server: Server) -> None:
    found = server.respond(temperature=0, top_p=0.5)
    assert (found.temperature, found.top_p) == (0, 0.5)


@row("responses", "stream", "typed, numbered events", "in the client's types, from created to the end")
def stream(server: Server) -> None:
    found = events(server)
    for event in found:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    kinds = [event["type"].removeprefix("response.") for event in found]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    joined = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
    assert joined == server.respond().output_text


@row("responses", "the client's stream helper", "assembles the response", "the same text and usage")
def helper(server: Server) -> None:
    body: Any = {"model": MODEL, "input": "Say hello.", "temperature": 0, "max_output_tokens": 64}
    with server.openai.responses.stream(**body) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == "".join(deltas) != ""


@row("responses", "include: message.output_text.logprobs", "log-probabilities", "with top_logprobs of each")
def logprobs(server: Server) -> None:
    found = server.respond(include=["message.output_text.logprobs"], top_logprobs=2)
    entries = found.output[0].content[0].logprobs
    assert [len(entry.top_logprobs) for entry in entries] == [2] * 4


@row("responses", "tools, tool_choice, parallel_tool_calls", "functions", "as in chats, and in the reply")
def tools(server: Server) -> None:
    found = server.respond(tools=[TIME], tool_choice="auto", parallel_tool_calls=False)
    assert found.tools[0].name == "get_time"
    assert (found.tool_choice, found.parallel_tool_calls) == ("auto", False)


@row("responses", "metadata", "16 texts of up to 512 characters", "in the reply")
def metadata(server: Server) -> None:
    assert server.respond(metadata={"a": "b"}).metadata == {"a": "b"}


accepted("responses", "store", "default true", "false; left out, it is false here", store=False)
accepted(
    "responses",
    "reasoning",
    "effort and summary",
    "effort is told to the template",
    reasoning={"effort": "low"},
)
accepted("responses", "user, prompt_cache_key", "who asks", "changes nothing", user="somebody")
refused("responses", "store", "default true", "nothing is stored", store=True)
refused("responses", "previous_response_id", "go on from a stored one", "nothing is stored",
        previous_response_id="resp_1")  # fmt: skip
refused("responses", "conversation", "go on with a stored one", "nothing is stored", conversation="conv_1")
refused("responses", "background", "answer later", "nothing is stored", background=True)
refused("responses", "prompt", "a stored prompt", "nothing is stored", prompt={"id": "pmpt_1"})
refused("responses", "truncation", "auto: drop what is too long", "long input is refused", truncation="auto")
refused("responses", "tools", "built-in tools", "functions only", tools=[{"type": "web_search"}])
refused("responses", "input", "images and files", "the model reads text",
        input=[{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}])  # fmt: skip


@row("responses", "GET, DELETE /v1/responses/ID", "a stored response", "404: nothing is stored")
def stored(server: Server) -> None:
    for method in ("GET", "DELETE"):
        reply = server.http.request(method, "/v1/responses/resp_1")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_served")
