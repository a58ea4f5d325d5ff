"""The gate before the routes that generate: a place for each request, or a refusal that costs little.

A pure ASGI middleware. It goes by a request's head alone: a router that is full reads no body, and does not
look up what would have answered. Knows paths and places; knows no body and no reply.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pagewire.errors import Unavailable
from router.answers import response_of
from router.body import MAX_BODY
from router.service import Service

GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})


class Gate:
    """Behind ``router.access``. Requests that generate get a Ticket as ``scope["state"]["ticket"]``."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in GENERATING or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            ticket = self._service.admit(scope["state"]["tenant"], _announced(scope))
        except Unavailable as error:
            self._service.metrics.refused.labels(error.code).inc()
            await response_of(error)(scope, receive, send)
            return
        with ticket:
            scope["state"]["ticket"] = ticket
            await self._app(scope, receive, send)


def _announced(scope: Scope) -> int:
    """Bytes of the body, as far as the head says."""
    announced = Headers(scope=scope).get("content-length", "")[:12]
    return min(int(announced), MAX_BODY) if announced.isascii() and announced.isdecimal() else 0
