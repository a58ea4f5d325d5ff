"""Rows of errors, models and routes that are not served."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from conformance.rows import HI, MODEL, Server, row


def fault(server: Server, kind: Any, **body: Any) -> Any:
    with pytest.raises(kind) as caught:
        server.chat(**body)
    return caught.value


@row("errors", "400", "BadRequestError, the error names the field", "message, type, param, code")
def bad_request(server: Server) -> None:
    error = fault(server, openai.BadRequestError, temperature=-1)
    assert (error.param, error.type) == ("temperature", "invalid_request_error")


@row("errors", "a wrong type", "400", "400, with what was expected")
def wrong_type(server: Server) -> None:
    assert fault(server, openai.BadRequestError, temperature="hot").param == "temperature"


@row("errors", "context_length_exceeded", "400 with this code", "with the numbers")
def too_long(server: Server) -> None:
    text = "word " * 9000
    error = fault(server, openai.BadRequestError, messages=[{"role": "user", "content": text}])
    assert (error.code, error.param) == ("context_length_exceeded", "messages")


@row("errors", "404 model_not_found", "NotFoundError", "with the name that was asked for")
def no_model(server: Server) -> None:
    error = fault(server, openai.NotFoundError, model="gpt-9")
    assert (error.code, error.param) == ("model_not_found", "model")


@row("errors", "x-request-id", "in each reply", "the client's, or one of ours")
def request_id(server: Server) -> None:
    assert fault(server, openai.BadRequestError, n=0).request_id
    assert server.http.get("/v1/models", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


@row("errors", "not JSON", "400", "400 invalid_json")
def not_json(server: Server) -> None:
    headers = {"content-type": "application/json"}
    reply = server.http.post("/v1/chat/completions", content=b"{", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


@row("errors", "unknown fields", "refused", "ignored, as vLLM, unless they would change the answer")
def unknown(server: Server) -> None:
    assert server.raw_chat(something_else=5).status_code == 200


@row("errors", "null", "the default", "the default")
def null(server: Server) -> None:
    body = dict.fromkeys(("n", "stop", "tools", "seed", "logit_bias", "stream", "user", "top_p"))
    assert server.raw_chat(temperature=0, **body).json()["choices"][0]["message"]["content"] == server.text()


@row("routes", "GET /v1/models", "a list of models", "with max_model_len, as vLLM")
def models(server: Server) -> None:
    (found,) = server.openai.models.list().data
    assert (found.id, found.object, found.owned_by) == (MODEL, "model", "pagewire")
    assert (found.model_extra or {})["max_model_len"] > 1000


@row("routes", "GET /v1/models/NAME", "one model", "or 404 model_not_found")
def one_model(server: Server) -> None:
    assert server.openai.models.retrieve(MODEL).id == MODEL
    assert server.http.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


@row("routes", "POST /v1/embeddings", "embeddings", "404 not_served, with the reason")
def embeddings(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="embeddings"):
        server.openai.embeddings.create(model=MODEL, input="x")


@row(
    "routes",
    "moderations, images, audio, files, batches, ...",
    "OpenAI's other routes",
    "404 with the reason",
)
def others(server: Server) -> None:
    for name in ("moderations", "images/generations", "audio/speech", "files", "batches", "assistants"):
        reply = server.http.post(f"/v1/{name}", json={"messages": HI})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_served")


@row("routes", "another method", "405", "405 with Allow")
def method(server: Server) -> None:
    reply = server.http.get("/v1/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


@row("routes", "GET /openapi.json", "", "bodies, replies and statuses of each route")
def openapi(server: Server) -> None:
    paths = server.http.get("/openapi.json").json()["paths"]
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        assert {"200", "400", "404", "429", "503"} <= paths[path]["post"]["responses"].keys()
        assert "requestBody" in paths[path]["post"]
