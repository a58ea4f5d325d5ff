"""A response that sends events as they come, for as long as the client reads them.

Knows ASGI and bytes; knows nothing of what is in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.answers import ClientGone
from router.sse import unless_gone

SEND_S = 10.0  # a client that takes nothing for so long is gone


class Events(Response):
    """Nothing is sent before the first event is there: until then an error is an HTTP error."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._run(send))
        except (ClientGone, TimeoutError):
            return  # without a last chunk: the server closes the connection
        finally:
            await self._events.aclose()

    async def _run(self, send: Send) -> None:
        first = await anext(self._events)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send(send, first, more=True)
        async for event in self._events:
            await _send(send, event, more=True)
        await _send(send, b"", more=False)


async def _send(send: Send, body: bytes, *, more: bool) -> None:
    async with asyncio.timeout(SEND_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})
