"""The operator's door: which nodes there are, and what each is to offer from now on.

An application of its own for a port of its own, which only this host reaches and only who has the cluster
secret may use. Knows nodes and roles; knows no request.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Literal

from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pagewire.errors import PagewireError, RequestError, Unavailable
from pagewire.messages import NodeId, TakeRole
from router.answers import NoRoute, Unauthorised, response_of
from router.body import read
from router.service import Service
from router.state import nodes_view

ANSWER_S = 5.0  # within which a node says that it has taken a role
LOOK_S = 0.005

log = logging.getLogger("pagewire.router")


class NoSuchNode(RequestError):
    code = "node_not_found"
    status = 404


class FixedRole(RequestError):
    code = "role_is_fixed"
    status = 409


class RoleBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["prefill", "decode"]


def make(service: Service, token: str) -> ASGIApp:
    """Everybody else than who bears ``token`` gets 401."""

    async def nodes(request: Request) -> Response:
        return JSONResponse({"nodes": nodes_view(service)})

    async def role(request: Request) -> Response:
        body = await read(request, RoleBody)
        name = NodeId(request.path_params["node"])
        waited = await moved(service, name, body.role)
        return JSONResponse({"node": name, "role": body.role, "ms": round(1000 * waited, 3)})

    app = Starlette(
        routes=[Route("/admin/nodes", nodes), Route("/admin/nodes/{node}/role", role, methods=["POST"])],
        exception_handlers={PagewireError: _ours, HTTPException: _no_route},
    )
    return _Guarded(app, token)


async def moved(service: Service, name: NodeId, role: str) -> float:
    """Have a node offer ``role``. Seconds until it said so. Raises RequestError, or Unavailable if it did not
    say so in time."""
    node = service.fleet.nodes.get(name)
    if node is None:
        raise NoSuchNode(f"there is no node {name[:128]!r}", param="node")
    if role not in (node.role, *node.hello.roles):
        raise FixedRole(f"{name} is a {node.role} node for good: it was not started by pagewire worker")
    began, peer = service.clock(), node.peer
    if node.role != role:
        log.info("%s is to be a %s node", name, role)
        service.tell(peer, TakeRole(role))
    while (now := service.clock()) - began < ANSWER_S:
        there = service.fleet.get(peer)
        if there is None:
            raise Unavailable(f"{name} was lost")
        if there.role == role:
            return now - began
        await asyncio.sleep(LOOK_S)
    raise Unavailable(f"{name} has not answered for {ANSWER_S:g} s")


class _Guarded:
    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        app = self._app
        if not secrets.compare_digest(given, self._wanted):
            app = response_of(Unauthorised("the cluster's admin token is needed; see pagewire role --help"))
        await app(scope, receive, send)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, PagewireError)
    return response_of(error)


async def _no_route(request: Request, error: Exception) -> Response:
    return response_of(NoRoute("there is no such route"))
