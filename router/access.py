"""The outermost layer of HTTP: who may come in, with how long a head, and by which id a request is known.

A pure ASGI middleware. Knows headers and paths; knows no route's meaning.
"""

from __future__ import annotations

import logging
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagewire.audit import Audit
from router.answers import HeadTooLong, Unauthorised, response_of
from router.connection import HEAD_BYTES, HEAD_FIELDS
from router.keys import KeyRing, refusal

OPEN_PATHS = frozenset({"/live", "/ready"})
HALF_OPEN_PATHS = frozenset({"/health"})  # answer to anybody, in detail only to those with a key
MAX_ID = 128
_AROUND = 4  # bytes around a field's name and value

log = logging.getLogger("pagewire.router")


class Access:
    """Gives each request an id, answers it in ``x-request-id``, and refuses callers without a known key.

    ``scope["state"]`` gets ``request_id``, ours, ``authorised``, and ``tenant``: a name for whoever holds
    this key, which tells nothing of it; "" without keys, and then everybody is authorised.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing | None = None) -> None:
        self._app = app
        self._keys = keys or KeyRing()
        self._audit = Audit(log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        ours = secrets.token_hex(16)
        shown = _printable(headers.get("x-request-id", "")) or ours
        tenant = self._keys.tenant(headers.get("authorization", ""))
        authorised = tenant is not None
        scope.setdefault("state", {}).update(request_id=ours, authorised=authorised, tenant=tenant or "")

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                told["x-request-id"] = shown
                told["x-content-type-options"] = "nosniff"
            await send(message)

        app: ASGIApp = self._app
        if _long_head(scope):
            app = response_of(HeadTooLong("the request's head is too long"))
        elif not authorised and scope["path"] not in OPEN_PATHS | HALF_OPEN_PATHS:
            self._audit.note(time.monotonic(), refusal(_client(scope), scope["path"]))
            app = response_of(Unauthorised("a valid API key is needed: Authorization: Bearer KEY"))
        await app(scope, receive, send_with_id)


def _long_head(scope: Scope) -> bool:
    """Whole heads; those that do not end are ``router.connection``'s."""
    fields = scope["headers"]
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    size += sum(len(name) + len(value) + _AROUND for name, value in fields)
    return len(fields) > HEAD_FIELDS or size > HEAD_BYTES


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _printable(value: str) -> str:
    """``value`` if it may be echoed in a header, else ""."""
    return value if 0 < len(value) <= MAX_ID and value.isascii() and value.isprintable() else ""
