"""The router's process: wires mailbox, service and HTTP together, and takes them down in order.

Knows options and signals; knows no request. SIGTERM and SIGINT: no new connection and no new request, those
in hand have ``grace_s`` to end, the rest is told and cancelled on the nodes, and the process exits with 0.
A second signal does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import uvloop

from pagewire import logs
from pagewire.errors import ConfigError, Unavailable
from pagewire.hub import resolve
from pagewire.mailbox import RouterMailbox
from pagewire.membership.url import addresses_of
from pagewire.open_files import allow_files
from pagewire.private import is_local
from pagewire.secret import admin_token, load_secret, own_secret, secret_for
from pagewire.status import Reporter
from pagewire.text.output.dialect import dialect_of
from pagewire.text.tokenizer import load_tokenizer
from router import admin, request_log
from router.app import make
from router.autorole import Targets
from router.dashboard.live import Live
from router.directory import DirectoryMetrics, listed
from router.front import Front
from router.grammar_check import GrammarCheck
from router.keys import ring_of
from router.options import RouterOptions
from router.role_keeper import RoleKeeper
from router.server import HttpServer, http_config, listen
from router.service import Service
from router.tls import context_of

YOUNG, ROUNDS = 2_000, 1_000  # new objects between two looks at those; such looks between two at the older

OnListening = Callable[[str], None]

log = logging.getLogger("pagewire.router")

__all__ = ["RouterOptions", "run", "serve"]


def run(options: RouterOptions, on_listening: OnListening | None = None) -> None:
    """Serve until SIGTERM or SIGINT. ``on_listening`` is called with the URL once connections are taken.

    Raises ConfigError (ModelError for the tokenizer) if it cannot start.
    """
    logs.setup(options.log_level, options.log_format, options.router_id or "router")
    allow_files()
    _collect_seldom()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options, on_listening))


def _collect_seldom() -> None:
    """The tokenizer alone is hundreds of thousands of objects: looking through them for cycles stops every
    stream for a tenth of a second. They live as long as the process; and what requests leave behind is freed
    without looking, but for the cycles that a failure makes.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, ROUNDS, 50)


async def serve(options: RouterOptions, on_listening: OnListening | None = None) -> None:
    """What ``run`` does, on the running loop; cancelling it is as good as a signal, without the grace."""
    keys, tls = ring_of(options), context_of(options)
    source = resolve(options.model)
    tokenizer = load_tokenizer(source)
    secret = secret_for(options.secret_file, options.mailbox, *addresses_of(options.registry))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options.host, options.port))
        mailbox = stack.enter_context(contextlib.closing(RouterMailbox(options.mailbox, secret)))
        service = Service(mailbox, options, tokenizer)
        service.metrics.watch(mailbox)
        service.requests.recorder.observers.append(request_log.write)
        if options.otlp_endpoint is not None:
            stack.enter_context(_traced(service, options.otlp_endpoint))
        names = options.served_model_names or (source.name,)
        dialect = dialect_of(tokenizer, options.tool_call_parser, options.reasoning_parser)
        grammars = stack.enter_context(contextlib.closing(GrammarCheck(str(source.path))))
        front = Front(service, tokenizer, names, int(time.time()), dialect, grammars)
        live = Live(service, names[0]) if options.dashboard else None
        app = make(front, keys, options.allowed_origins, live)
        server = HttpServer(http_config(options, app), tls)
        parts = [service.run()]
        if live is not None:
            parts.append(live.run())
        if options.autorole:
            targets = Targets(options.slo_ttft_ms, options.slo_itl_ms)
            parts.append(RoleKeeper(service, targets).run())
        if options.admin_port is not None:
            door = stack.enter_context(listen("127.0.0.1", options.admin_port))
            parts.append(_admin(options, service, secret or load_secret(own_secret()), door))
        fleet = service.fleet
        directory = listed(options, fleet.router, fleet.epoch, mailbox.address, names[0], secret)
        if directory is not None:
            stack.callback(directory.leave)
            service.metrics.registry.register(DirectoryMetrics(directory))
        running = asyncio.create_task(_running(parts))
        leave = directory.leave if directory is not None else _nothing
        await _serve(options, service, running, server, listener, leave, on_listening)


@contextlib.contextmanager
def _traced(service: Service, endpoint: str) -> Iterator[None]:
    """Requests become spans at ``endpoint``. Raises ConfigError if it cannot be."""
    try:
        from router.tracing import Tracing, exporting
    except ImportError as error:
        raise ConfigError("--otlp-endpoint needs OpenTelemetry: pip install 'pagewire[otel]'") from error
    tracing = Tracing(exporting(endpoint), service.clock)
    service.requests.recorder.observers.append(tracing.told)
    try:
        yield
    finally:
        tracing.close()


async def _running(parts: Sequence[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for part in parts:
            tasks.create_task(part)


async def _admin(options: RouterOptions, service: Service, secret: bytes, door: socket.socket) -> None:
    server = HttpServer(http_config(options, admin.make(service, admin_token(secret))))
    try:
        await server.serve(sockets=[door])
    finally:
        for listening in server.servers:
            listening.close()


async def _serve(
    options: RouterOptions,
    service: Service,
    running: asyncio.Task[None],
    server: HttpServer,
    listener: socket.socket,
    leave: Callable[[], None],
    on_listening: OnListening | None,
) -> None:
    """Run HTTP and service until a signal, or until one of them ends by itself. ``leave`` may block."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        with _signals() as stop:
            _announce(options, listener, on_listening)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({serving, running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            stop.clear()
            await asyncio.to_thread(leave)
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


def _nothing() -> None: ...


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
