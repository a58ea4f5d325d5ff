"""The OpenAPI page says what is so."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import World
from pydantic import BaseModel
from test_tools_api import CALL, WEATHER

from router import reply_schemas
from router.openapi import ROUTES

HI = {"messages": [{"role": "user", "content": "Hi"}]}


async def page(world: World) -> dict[str, Any]:
    reply = await world.http.get("/openapi.json")
    assert reply.status_code == 200
    return reply.json()  # type: ignore[no-any-return]


async def test_every_route_is_described(world: World) -> None:
    paths = (await page(world))["paths"]
    assert ROUTES.keys() <= paths.keys()
    for path, route in ROUTES.items():
        for operation in paths[path].values():
            assert {int(status) for status in operation["responses"]} == {200, *route.errors}
            assert ("requestBody" in operation) == (route.body is not None)


async def test_every_reference_leads_somewhere(world: World) -> None:
    found = await page(world)
    references = set[str]()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(reference := value.get("$ref"), str):
                references.add(reference.removeprefix("#/components/schemas/"))
            for part in value.values():
                walk(part)
        elif isinstance(value, list):
            for part in value:
                walk(part)

    walk(found)
    assert references <= found["components"]["schemas"].keys()
    assert "ChatBody" in references


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        ("/v1/chat/completions", HI, reply_schemas.ChatCompletion),
        ("/v1/chat/completions", HI | {"logprobs": True, "top_logprobs": 2}, reply_schemas.ChatCompletion),
        ("/v1/chat/completions", HI | {"prompt_logprobs": 1, "timing": True}, reply_schemas.ChatCompletion),
        ("/v1/chat/completions", HI | {"tools": [WEATHER]}, reply_schemas.ChatCompletion),
        ("/v1/completions", {"prompt": "a b", "echo": True, "logprobs": 1}, reply_schemas.Completion),
        ("/v1/completions", {"prompt": "a b", "prompt_logprobs": 1}, reply_schemas.Completion),
        ("/v1/completions", {"prompt": "a", "return_token_ids": True}, reply_schemas.Completion),
        ("/v1/responses", {"input": "Hi"}, reply_schemas.Response),
        ("/tokenize", {"prompt": "Hi"}, reply_schemas.Tokens),
        ("/detokenize", {"tokens": [5]}, reply_schemas.Text),
        ("/v1/completions", {"prompt": 5}, reply_schemas.Error),
    ],
)
async def test_replies_are_as_they_are_described(
    world: World, path: str, body: dict[str, Any], shape: type[BaseModel]
) -> None:
    world.say(CALL)
    shape.model_validate_json((await world.post(path, **body)).content, strict=True)


async def test_models_are_as_they_are_described(world: World) -> None:
    for path, shape in (("/v1/models", reply_schemas.Models), ("/v1/models/demo", reply_schemas.Model)):
        shape.model_validate_json((await world.http.get(path)).content, strict=True)
