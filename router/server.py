"""The HTTP server: its socket, its connections, and how it ends.

Knows uvicorn and sockets; knows no route and no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from pagewire.errors import ConfigError
from router.connection import Connection
from router.options import RouterOptions
from router.tls import HANDSHAKE_S

KEEP_ALIVE_S = 5
LOOK_S = 1.0  # how often connections are looked at, and the time in replies' headers is renewed
SEND_BUFFER = 32 << 10  # of a connection in the kernel, which takes twice that for what is not read
BACKLOG = 1024  # connections that wait to be taken
CLOSE_S = 2.0  # for connections to close once their requests have ended


class HttpServer(uvicorn.Server):
    """uvicorn's server; the signals are ours, and it sleeps until it is told to end."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(config)
        self._tls = tls
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's would let a client shake hands for a minute."""

        def connection() -> asyncio.Protocol:
            return Connection(self.config, self.server_state, app_state={})

        wait = HANDSHAKE_S if self._tls else None
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                connection, sock=listener, ssl=self._tls, ssl_handshake_timeout=wait, backlog=BACKLOG
            )
            for listener in sockets or ()
        ]
        self.started = True

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # which also sets the date that replies carry
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.look(now)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), LOOK_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_config(options: RouterOptions, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="error",  # it warns of each malformed request: who sends many must not fill the disk
        access_log=False,
        lifespan="off",
        http=Connection,
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(options.grace_s + CLOSE_S) + 1,
    )


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    # Connections inherit it; asyncio sets it only on sockets that name their protocol. Without it a first
    # token, which goes out right behind the headers, waits some 40 ms for the client's delayed ACK of those.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return listener
