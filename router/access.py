"""The outermost layer of HTTP: who may come in, and by which id a request is known.

A pure ASGI middleware. Knows headers and paths; knows no route's meaning.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.answers import Unauthorised, response_of

OPEN_PATHS = frozenset({"/live", "/ready"})
HALF_OPEN_PATHS = frozenset({"/health"})  # answer to anybody, in detail only to those with a key
MAX_ID = 128
TENANT_DIGITS = 16


class Access:
    """Gives each request an id, answers it in ``x-request-id``, and refuses callers without a known key.

    ``scope["state"]`` gets ``request_id``, ours, ``authorised``, and ``tenant``: a name for whoever holds
    this key, which tells nothing of it; "" without keys, and then everybody is authorised. Keys are
    kept and compared as SHA-256 digests, each of them every time, so that timing tells nothing about them.
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str] = ()) -> None:
        self._app = app
        self._digests = [_digest(key) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        ours = secrets.token_hex(16)
        shown = _printable(headers.get("x-request-id", "")) or ours
        tenant = self._tenant(headers.get("authorization", ""))
        authorised = tenant is not None
        scope.setdefault("state", {}).update(request_id=ours, authorised=authorised, tenant=tenant or "")

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = shown
            await send(message)

        app: ASGIApp = self._app
        if not authorised and scope["path"] not in OPEN_PATHS | HALF_OPEN_PATHS:
            app = response_of(Unauthorised("a valid API key is needed: Authorization: Bearer KEY"))
        await app(scope, receive, send_with_id)

    def _tenant(self, header: str) -> str | None:
        """None: not authorised."""
        if not self._digests:
            return ""
        scheme, _, key = header.partition(" ")
        digest = _digest(key.strip())
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:TENANT_DIGITS] if scheme.lower() == "bearer" and any(found) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _printable(value: str) -> str:
    """``value`` if it may be echoed in a header, else ""."""
    return value if 0 < len(value) <= MAX_ID and value.isascii() and value.isprintable() else ""
