"""Replies that take a while: waiting for them, streaming them, and noticing that the client has gone.

Knows ASGI and server-sent events; knows no token. ``router.connection`` hangs up on clients that do not read.
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
from router.connection import writer_of

DONE = b"data: [DONE]\n\n"
WIRE = "wire"  # in a request's state: the server's own ``send``
_MARK = "\ue000text\ue000"  # private use: no other word of ours holds it

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

T = TypeVar("T")
Write = Callable[[bytes], bool]  # of an event, now; False: it cannot be, since the client has to read first


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
    """Sends what ``events`` yields, each of one event or more, and ``last`` behind it.

    Nothing is sent before the first event is there, so that an error until then is an HTTP error. One that
    comes later is the last event. ``headers`` gives those that are known only with the first event.
    ``at_once`` is told then how to send an event without ``events``; it may while these wait for the next.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: Callable[[], Mapping[str, str]] = dict,
        last: bytes = DONE,
        at_once: Callable[[Write], None] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._late_headers = headers
        self._last = last
        self._at_once = at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._run(send, scope.get("state", {}).get(WIRE, send)))
        except ClientGone:
            return  # without a last chunk: the server closes the connection
        finally:
            await self._events.aclose()

    async def _run(self, send: Send, wire: Send) -> None:
        """``wire`` is ``send`` without what lies around it, which has no use for pieces of a body."""
        first = await anext(self._events)
        self.headers.update(self._late_headers())
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        last = self._last
        try:
            await send({"type": "http.response.body", "body": first, "more_body": True})
            if self._at_once is not None and (write := writer_of(wire)) is not None:
                self._at_once(write)
            async for events in self._events:
                await wire({"type": "http.response.body", "body": events, "more_body": True})
        except PagewireError as error:
            last = event(body_of(error))
        await send({"type": "http.response.body", "body": last, "more_body": False})


class TextEvent:
    """An event that is told again and again with another text in it: what does not change is spelled once."""

    __slots__ = ("_after", "_before")

    def __init__(self, example: Callable[[str], dict[str, Any]]) -> None:
        """``example`` gives the event for a text, which it holds once."""
        self._before, self._after = event(example(_MARK)).split(_spelled(_MARK))

    def __call__(self, text: str) -> bytes:
        return self._before + _spelled(text) + self._after


def event(value: dict[str, Any], name: str = "") -> bytes:
    """``value`` as an event, whose type has a line of its own if it has a ``name``."""
    data = b"data: " + _JSON.encode(value).encode() + b"\n\n"
    return f"event: {name}\n".encode() + data if name else data


def _spelled(text: str) -> bytes:
    return _JSON.encode(text).encode()
