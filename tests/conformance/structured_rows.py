"""Rows of answers that must match: a format, a schema, a regular expression, a grammar."""

from __future__ import annotations

import json
import re
from typing import Any

from conformance.rows import HI, MODEL, Server, accepted, refused, row
from pydantic import BaseModel, Field

AREA = "structured output"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
CHAT = {"path": "/v1/chat/completions", "messages": HI}


def held(server: Server, **extra: Any) -> str:
    (choice,) = server.chat(max_tokens=64, extra_body=extra).choices
    assert choice.finish_reason == "stop"
    return choice.message.content or ""


accepted(AREA, "response_format: text", "any text", "as documented", response_format={"type": "text"})


@row(AREA, "response_format: json_object", "a JSON object", "on one line, so that small models end")
def json_object(server: Server) -> None:
    (choice,) = server.chat(max_tokens=200, response_format={"type": "json_object"}).choices
    assert choice.message.content.startswith("{")
    assert choice.finish_reason != "stop" or isinstance(json.loads(choice.message.content), dict)


@row(AREA, "response_format: json_schema", "JSON that matches the schema", "with strict or without")
def json_schema(server: Server) -> None:
    found = json.loads(held(server, response_format=NAMED))
    assert found.keys() == {"name", "age"}
    assert 0 <= found["age"] <= 99


@row(AREA, "response_format, streamed", "the same text", "as documented")
def streamed(server: Server) -> None:
    stream = server.chat(max_tokens=64, response_format=NAMED, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == held(server, response_format=NAMED)


@row(AREA, "structured_outputs.regex, guided_regex", "vLLM: text that matches", "as documented")
def regex(server: Server) -> None:
    pattern = r"[a-c]{3}-\d{2}"
    assert re.fullmatch(pattern, held(server, structured_outputs={"regex": pattern}))
    assert re.fullmatch(pattern, held(server, guided_regex=pattern))


@row(AREA, "structured_outputs.choice, guided_choice", "vLLM: one of these texts", "as documented")
def choice(server: Server) -> None:
    assert held(server, structured_outputs={"choice": ["red", "green"]}) in ("red", "green")
    assert held(server, guided_choice=["red", "green"]) in ("red", "green")


@row(AREA, "structured_outputs.json, guided_json", "vLLM: JSON that matches", "as documented")
def guided_json(server: Server) -> None:
    assert json.loads(held(server, structured_outputs={"json": SCHEMA})).keys() == {"name", "age"}
    assert json.loads(held(server, guided_json=SCHEMA)).keys() == {"name", "age"}


@row(AREA, "structured_outputs.grammar", "vLLM: text of a grammar", "llguidance's dialect of Lark")
def grammar(server: Server) -> None:
    assert held(server, structured_outputs={"grammar": 'start: "yes" | "no"'}) in ("yes", "no")


@row(AREA, "/v1/responses: text.format", "json_schema", "as response_format of chats")
def responses(server: Server) -> None:
    form = {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}
    found = server.respond(text={"format": form}, max_output_tokens=64)
    assert json.loads(found.output_text).keys() == {"name", "age"}


class Person(BaseModel):
    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=99)


@row(AREA, "the client's parse helpers", "a model of pydantic", "for chats and responses")
def helpers(server: Server) -> None:
    body: Any = {"model": MODEL, "messages": HI, "max_tokens": 64, "response_format": Person}
    assert server.openai.chat.completions.parse(**body).choices[0].message.parsed is not None
    body = {"model": MODEL, "input": "Somebody.", "max_output_tokens": 64, "text_format": Person}
    assert server.openai.responses.parse(**body).output_parsed is not None


@row(AREA, "/v1/completions", "response_format has no place there", "taken, as vLLM")
def completions(server: Server) -> None:
    text = server.complete(max_tokens=64, extra_body={"response_format": NAMED}).choices[0].text
    assert json.loads(text).keys() == {"name", "age"}


refused(AREA, "response_format.type", "one of three", "another type", **CHAT, response_format={"type": "xml"})
refused(AREA, "response_format.json_schema.schema", "a JSON schema", "one that is none", **CHAT,
        response_format=NAMED | {"json_schema": {"name": "x", "schema": {"type": "a"}}})  # fmt: skip
refused(AREA, "structured_outputs.regex", "a regular expression", "one that is none", **CHAT,
        structured_outputs={"regex": "("})  # fmt: skip
refused(AREA, "structured_outputs.regex", "one of them", "two at once", **CHAT,
        structured_outputs={"json": SCHEMA, "regex": "a"})  # fmt: skip
