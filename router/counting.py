"""Counts HTTP requests by route and status, as they begin to be answered.

A pure ASGI middleware around everything else, so that the refused are counted too. Knows routes by their
pattern, never by what a client wrote: what it asks for that is not there cannot make a metric.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.meters import LabelledCounter
from router.sse import WIRE

NO_ROUTE = "other"


class Counting:
    def __init__(self, app: ASGIApp, requests: LabelledCounter) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", NO_ROUTE)
                self._requests.labels(route, str(message["status"])).inc()
            await send(message)

        state = scope.setdefault("state", {})
        state[WIRE] = send
        try:
            await self._app(scope, receive, counted)
        finally:
            del state[WIRE]  # it holds what holds the state: a circle for each request
