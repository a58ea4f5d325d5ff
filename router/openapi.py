"""The OpenAPI page: for each route its body, its reply, and every status that it may answer with.

Bodies are read by ``router.body``, which FastAPI does not know, and those routes that generate are not its
own, so the page is completed here. Knows routes by their paths; a route that is not in ``ROUTES`` keeps what
FastAPI says of it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from router import reply_schemas as replies
from router.responses.schemas import ResponsesBody
from router.schemas import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody

_STATUSES = {
    400: "A field is wrong, or asks for what is not served",
    401: "A key is needed",
    404: "Another model than the one that is served",
    408: "The client took too long to say it",
    413: "The body is too large",
    415: "The body is not JSON",
    431: "The head is too large",
    429: "Too much is running; see Retry-After",
    500: "The request was taken and failed",
    503: "Nobody can take it now, or a node was lost; see Retry-After",
    504: "It took too long",
}
_ANY = (401, 408, 431)
_ASKED = (*_ANY, 400, 404, 413, 415)
_GENERATED = (*_ASKED, 429, 500, 503, 504)


class Route(NamedTuple):
    body: type[BaseModel] | None
    reply: type[BaseModel] | None
    errors: tuple[int, ...]
    streams: bool = False


ROUTES = {
    "/v1/chat/completions": Route(ChatBody, replies.ChatCompletion, _GENERATED, streams=True),
    "/v1/completions": Route(CompletionBody, replies.Completion, _GENERATED, streams=True),
    "/v1/responses": Route(ResponsesBody, replies.Response, _GENERATED, streams=True),
    "/tokenize": Route(TokenizeBody, replies.Tokens, _ASKED),
    "/detokenize": Route(DetokenizeBody, replies.Text, _ASKED),
    "/v1/models": Route(None, replies.Models, _ANY),
    "/v1/models/{name}": Route(None, replies.Model, (*_ANY, 404)),
    "/version": Route(None, None, _ANY),
    "/metrics": Route(None, None, _ANY),
    "/ready": Route(None, None, (408, 431, 503)),
}


def complete(app: FastAPI) -> None:
    """To be called when all routes are there."""
    app.openapi = partial(_page, app)  # type: ignore[method-assign]


def _page(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        page = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = page.setdefault("components", {}).setdefault("schemas", {})
        refs = _references(schemas)
        for path, route in ROUTES.items():
            if route.streams:
                page["paths"][path] = {"post": _plain(path)}
            for operation in page["paths"][path].values():
                _describe(operation, route, refs)
        app.openapi_schema = page
    return app.openapi_schema


def _plain(path: str) -> dict[str, Any]:
    """Of a route that FastAPI does not know."""
    name = path.removeprefix("/v1/").replace("/", " ")
    return {
        "summary": name.capitalize(),
        "operationId": name.replace(" ", "_"),
        "responses": {"200": {"description": "Successful Response"}},
    }


def _references(schemas: dict[str, Any]) -> dict[type[BaseModel], dict[str, Any]]:
    """Put every model into ``schemas``; gives how each is referred to."""
    models: set[type[BaseModel]] = {replies.Error}
    models |= {model for route in ROUTES.values() for model in (route.body, route.reply) if model is not None}
    ordered = sorted(models, key=lambda model: model.__name__)
    found, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    schemas |= definitions["$defs"]
    return {model: found[model, "validation"] for model in ordered}


def _describe(operation: dict[str, Any], route: Route, refs: dict[type[BaseModel], dict[str, Any]]) -> None:
    if route.body is not None:
        content = {"application/json": {"schema": refs[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    ok = operation["responses"]["200"]
    if route.reply is not None:
        ok["content"] = {"application/json": {"schema": refs[route.reply]}}
    if route.streams:
        ok["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": refs[replies.Error]}}
    failures = {str(s): {"description": _STATUSES[s], "content": error} for s in sorted(route.errors)}
    operation["responses"] = {"200": ok, **failures}
