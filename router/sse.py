"""Replies that take a while: waiting for them, streaming them, and noticing that the client has gone.

Knows ASGI and server-sent events; knows no token. A client that does not read its stream is hung up on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pagewire.errors import PagewireError
from router.answers import ClientGone, body_of

SEND_S = 30.0  # a client that takes nothing for so long is gone
LOOK_S = 1.0  # how often that is looked at: a timer for each chunk would cost as much as the chunk

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

T = TypeVar("T")


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of ``work``; raises ClientGone, with ``work`` cancelled, if the client hangs up before.

    The request's body must have been read.
    """
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends what ``events`` yields, each as one ``data:`` event, and ``[DONE]`` after the last.

    Nothing is sent before the first event is there, so that an error until then is an HTTP error. One that
    comes later is the last event, and there is no ``[DONE]``. ``headers`` gives those that are known only
    then.
    """

    media_type = "text/event-stream"
    last = b"data: [DONE]\n\n"

    def __init__(
        self,
        events: AsyncGenerator[list[dict[str, Any]], None],
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._late_headers = headers
        self._sending_since: float | None = None  # on the loop's clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._patiently(send))
        except (ClientGone, TimeoutError):
            return  # without a last chunk: the server closes the connection
        finally:
            await self._events.aclose()

    async def _patiently(self, send: Send) -> None:
        """Raises TimeoutError if one send takes ``SEND_S``, or up to ``LOOK_S`` more."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            timer = loop.call_later(LOOK_S, look)
            if self._sending_since is not None and loop.time() - self._sending_since >= SEND_S:
                timer.cancel()
                limit.reschedule(loop.time())

        timer = loop.call_later(LOOK_S, look)
        try:
            async with asyncio.timeout(None) as limit:
                await self._run(send)
        finally:
            timer.cancel()

    async def _run(self, send: Send) -> None:
        first = await anext(self._events)
        self.headers.update(self._late_headers())
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await self._send(send, self._encoded(first))
            async for chunks in self._events:
                await self._send(send, self._encoded(chunks))
            last = self.last
        except PagewireError as error:
            last = _encode([body_of(error)])
        await self._send(send, last, more=False)

    def _encoded(self, chunks: list[dict[str, Any]]) -> bytes:
        return _encode(chunks)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": body, "more_body": more})
        self._sending_since = None


def _encode(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + _dumps(chunk) + b"\n\n" for chunk in chunks)


def _dumps(value: dict[str, Any]) -> bytes:
    return _JSON.encode(value).encode()
