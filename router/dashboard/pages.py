"""The page's files, from memory, in front of the door: they hold nothing that a key protects.

Knows paths and headers; what the page shows it asks for itself, with the key. Nothing in it comes from
another host or runs inline, and the policy that is sent along tells the browser so.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

HOME = "/dashboard"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}


class _File(NamedTuple):
    body: bytes
    headers: dict[str, str]


class Pages:
    """An ASGI application in front of another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._files = _load(files("router.dashboard") / "static", HOME)
        self._files[HOME] = self._files[f"{HOME}/index.html"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        file = self._files.get(scope["path"])
        app = self._app if file is None else _reply(file, Headers(scope=scope).get("if-none-match", ""))
        await app(scope, receive, send)


def _reply(file: _File, known: str) -> Response:
    if known == file.headers["etag"]:
        return Response(status_code=304, headers=file.headers)
    return Response(file.body, headers=file.headers)


def _load(folder: Traversable, path: str) -> dict[str, _File]:
    found: dict[str, _File] = {}
    for entry in folder.iterdir():
        at, ending = f"{path}/{entry.name}", entry.name.rpartition(".")[2]
        if entry.is_dir():
            found |= _load(entry, at)
        elif ending in _TYPES:
            found[at] = _file(entry.read_bytes(), _TYPES[ending])
    return found


def _file(body: bytes, kind: str) -> _File:
    headers = {
        "content-type": kind,
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
        "etag": f'"{hashlib.sha256(body).hexdigest()[:16]}"',
    }
    return _File(body, headers)
