"""The router's process: wires mailbox, service and HTTP together, and takes them down in order.

Knows options and signals; knows no request. SIGTERM and SIGINT: no new connection and no new request, those
in hand have ``grace_s`` to end, the rest is told and cancelled on the nodes, and the process exits with 0.
A second signal does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from pagewire.errors import ConfigError, Unavailable
from pagewire.hub import resolve
from pagewire.mailbox import RouterMailbox
from pagewire.private import is_local
from pagewire.secret import secret_for
from pagewire.status import Reporter
from pagewire.text.tokenizer import load_tokenizer
from router.app import make
from router.connection import HEAD_BYTES, Connection
from router.generate import Front
from router.keys import ring_of
from router.options import RouterOptions
from router.service import Service
from router.tls import HANDSHAKE_S, context_of

KEEP_ALIVE_S = 5
LOOK_S = 1.0  # how often connections are looked at, and the time in replies' headers is renewed
SEND_BUFFER = (
    64 << 10
)  # of a connection, in the kernel, which takes twice that: what a slow reader can leave there
BACKLOG = 1024  # connections that wait to be taken
FILES = 4096  # that may be open, where the system allows it
CLOSE_S = 2.0  # for connections to close once their requests have ended

OnListening = Callable[[str], None]

log = logging.getLogger("pagewire.router")

__all__ = ["RouterOptions", "run", "serve"]


def run(options: RouterOptions, on_listening: OnListening | None = None) -> None:
    """Serve until SIGTERM or SIGINT. ``on_listening`` is called with the URL once connections are taken.

    Raises ConfigError (ModelError for the tokenizer) if it cannot start.
    """
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    _allow_files()
    asyncio.run(serve(options, on_listening))


async def serve(options: RouterOptions, on_listening: OnListening | None = None) -> None:
    """What ``run`` does, on the running loop; cancelling it is as good as a signal, without the grace."""
    keys, tls = ring_of(options), context_of(options)
    source = resolve(options.model)
    tokenizer = load_tokenizer(source)
    secret = secret_for(options.secret_file, options.mailbox)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(options.host, options.port))
        mailbox = stack.enter_context(contextlib.closing(RouterMailbox(options.mailbox, secret)))
        service = Service(mailbox, options, tokenizer)
        service.metrics.watch(mailbox)
        names = options.served_model_names or (source.name,)
        front = Front(service, tokenizer, names, int(time.time()))
        server = _Server(_http_config(options, make(front, keys, options.allowed_origins)), tls)
        await _serve(options, service, server, listener, on_listening)


async def _serve(
    options: RouterOptions,
    service: Service,
    server: _Server,
    listener: socket.socket,
    on_listening: OnListening | None,
) -> None:
    """Run HTTP and service until a signal, or until one of them ends by itself."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    running = asyncio.create_task(service.run())
    try:
        with _signals() as stop:
            _announce(options, listener, on_listening)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({serving, running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            stop.clear()
            service.draining = True
            server.end()
            await _drain(service, running, stop, options.grace_s)
        await serving
    finally:
        service.requests.fail_all(Unavailable("the server is shutting down", retry_after=2.0))
        serving.cancel()
        running.cancel()
        results = await asyncio.gather(serving, running, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


class _Server(uvicorn.Server):
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


def _http_config(options: RouterOptions, app: ASGIApp) -> uvicorn.Config:
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
        h11_max_incomplete_event_size=HEAD_BYTES,
    )


def _allow_files() -> None:
    """A connection is an open file, and many systems allow a process 1,024 unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
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


def _announce(options: RouterOptions, listener: socket.socket, on_listening: OnListening | None) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "http" if options.ssl_certfile is None else "https"
    url = f"{scheme}://{host}:{listener.getsockname()[1]}"
    if options.insecure and not is_local(url):
        log.warning("%s can be reached from other hosts, and anybody there may use it: --insecure", url)
    Reporter(options.status_fd).ready(url=url)
    if on_listening is not None:
        on_listening(url)


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set. Off the main thread there are no signals to catch."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
            caught.append(number)
    try:
        yield stop
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


async def _drain(service: Service, running: asyncio.Task[None], again: asyncio.Event, grace: float) -> None:
    """Wait until nothing is in hand; not past ``grace`` seconds, a second signal or the service's end."""
    until = service.clock() + grace
    while service.inflight and service.clock() < until and not again.is_set() and not running.done():
        await asyncio.sleep(0.02)
    service.requests.fail_all(Unavailable("the server is shutting down", retry_after=2.0))
