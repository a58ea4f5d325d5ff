"""The routes: what can be asked over HTTP, and by whom each question is answered.

Knows paths and status codes; what they mean is elsewhere. ``make`` gives an ASGI application without a
server, so that tests and servers use the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pagewire import __version__
from pagewire.errors import PagewireError, RequestError, RequestFailed, Unavailable
from router import openapi
from router.access import Access
from router.answers import ClientGone, MethodNotAllowed, NoRoute, NotServed, response_of
from router.body import read
from router.chat import chat
from router.completions import completion
from router.counting import Counting
from router.dashboard.live import Live
from router.dashboard.pages import Pages
from router.dashboard.stream import Events
from router.front import Front
from router.gate import Gate
from router.keys import KeyRing
from router.not_served import why_not
from router.prompts import checked, render_chat
from router.responses.endpoint import respond
from router.schemas import DetokenizeBody, TokenizeBody
from router.tool_use import ToolUse, checked_tools

GONE = 499  # nobody sees it but the log: the client hung up first

log = logging.getLogger("pagewire.router")


def make(
    front: Front, keys: KeyRing | None = None, origins: Sequence[str] = (), live: Live | None = None
) -> ASGIApp:
    """The whole application. Without ``keys``, anybody may come in. ``origins``: whose pages may ask from a
    browser. ``live`` None: no dashboard.
    """
    app = FastAPI(title="pagewire", version=__version__, redoc_url=None)
    _generation_routes(app, front)
    _text_routes(app, front)
    _model_routes(app, front)
    _state_routes(app, front)
    _error_handlers(app, front)
    if live is not None:
        _dashboard_routes(app, live)
    openapi.complete(app)
    guarded: ASGIApp = Access(Gate(app, front.service), keys)
    if origins:  # outside: a browser asks whether it may send a key before it sends it
        guarded = CORSMiddleware(
            guarded, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"], max_age=600
        )
    counted = Counting(guarded, front.service.metrics.http)
    return counted if live is None else Pages(counted)


def _generation_routes(app: FastAPI, front: Front) -> None:
    """Starlette's own routes: FastAPI's do for each request what nothing here has a use for."""
    for path, answer in {
        "/v1/chat/completions": chat,
        "/v1/completions": completion,
        "/v1/responses": respond,
    }.items():
        app.router.routes.append(Route(path, partial(answer, front), methods=["POST"]))


def _text_routes(app: FastAPI, front: Front) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await read(request, TokenizeBody)
        front.model(body.model)
        tokens = await _tokens_of(front, body)
        strings = [front.tokenizer.token_text(t) for t in tokens] if body.return_token_strs else None
        limit = front.service.max_model_len
        return JSONResponse(
            {"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": strings}
        )

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        body = await read(request, DetokenizeBody)
        front.model(body.model)
        tokens = checked(front, body.tokens, "tokens") if body.tokens else []
        return JSONResponse({"prompt": front.tokenizer.decode(tokens, skip_special_tokens=False)})


async def _tokens_of(front: Front, body: TokenizeBody) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give either prompt or messages", param="prompt")
    if body.messages is not None:
        use = ToolUse(tuple(checked_tools(body.tools or [])))
        text = render_chat(front, body, body.messages, use)
        return await front.encode(text, special=bool(body.add_special_tokens))
    assert body.prompt is not None
    special = True if body.add_special_tokens is None else body.add_special_tokens
    return await front.encode(body.prompt, special=special)


def _model_routes(app: FastAPI, front: Front) -> None:
    def card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": front.started,
            "owned_by": "pagewire",
            "root": front.names[0],
            "parent": None,
            "max_model_len": front.service.max_model_len,
        }

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card(name) for name in front.names]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return JSONResponse(card(front.model(name)))

    @app.get("/version")
    async def show_version() -> Response:
        return JSONResponse({"version": __version__})


def _state_routes(app: FastAPI, front: Front) -> None:
    service = front.service

    @app.get("/live")
    async def live() -> Response:
        """The process runs and its event loop turns; nothing else is asked."""
        return JSONResponse({"status": "alive"})

    @app.get("/ready")
    async def ready() -> Response:
        """A request that came now would be served: one has been lately."""
        if why := service.unready:
            return response_of(Unavailable(why))
        return JSONResponse({"status": "ready"})

    @app.get("/health")
    async def health(request: Request) -> Response:
        status = "ready" if service.ready else "draining" if service.draining else "waiting"
        if not request.state.authorised:
            return JSONResponse({"status": status})
        age = service.canary.age(service.clock())
        told = {"status": status, "why": service.unready, "proof_age_s": age and round(age, 3)}
        return JSONResponse(told | {"inflight": service.inflight, "nodes": _nodes(front)})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")


def _dashboard_routes(app: FastAPI, live: Live) -> None:
    @app.get("/dashboard/events", include_in_schema=False)  # the page's own, and without an end
    async def events() -> Response:
        return Events(live.watch())


def _nodes(front: Front) -> list[dict[str, Any]]:
    now = front.service.clock()
    return [
        {
            "node": node.hello.node,
            "role": node.hello.role,
            "pid": node.hello.pid,
            "epoch": node.hello.epoch,
            "version": node.hello.version,
            "max_model_len": node.hello.max_model_len,
            "page_size": node.hello.page_size,
            "topology": node.hello.topology,
            "suspect": node.suspect,
            "silent_s": round(now - node.heard, 3),
            "load": {
                "waiting": node.load.waiting,
                "running": node.load.running,
                "queued_tokens": node.load.queued_tokens,
                "pages_free": node.load.pages_free,
                "pages_total": node.load.pages_total,
                "transfers": node.load.transfers,
                "steps": node.load.steps,
                "gauges": node.load.gauges,
            },
        }
        for node in front.service.fleet.nodes.values()
    ]


def _error_handlers(app: FastAPI, front: Front) -> None:
    @app.exception_handler(PagewireError)
    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, PagewireError)
        if not isinstance(error, RequestFailed):  # that one was taken, and is counted where it ended
            front.service.metrics.refused.labels(error.code).inc()
        return response_of(error)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            headers = dict(error.headers or {})
            return response_of(MethodNotAllowed("this route does not take that method"), headers)
        if error.status_code == 404:
            reason = why_not(request.url.path)
            if reason is not None:
                return response_of(NotServed(f"{request.url.path} is not served: {reason}"))
            return response_of(NoRoute("there is no such route"))
        return response_of(RequestError("the request cannot be understood"))

    @app.exception_handler(ClientGone)
    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        """Our own mistake. Starlette raises it again afterwards, and the server logs it."""
        return response_of(PagewireError("fault"))
