"""What a prefill and a decode node have in common as programs: start, loop, stop.

Knows options, the engine, the mailbox and signals. Which way KV travels is the business of the two callables
that the program hands in.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
import zmq

from pagewire import logs
from pagewire.engine import gpu_memory
from pagewire.engine.build import CAPTURES, CHUNKS, Built, build_engine
from pagewire.engine.engine import Engine
from pagewire.errors import ConfigError
from pagewire.hub import resolve
from pagewire.mailbox import SPEAKS, NodeMailbox
from pagewire.messages import DECODE, Epoch, Hello, NodeId
from pagewire.node_options import NodeOptions
from pagewire.secret import secret_for
from pagewire.status import Reporter
from pagewire.waiting import Alarm
from pagewire.watchdog import TICK_S, Watchdog

_log = logging.getLogger("pagewire.node")
IDLE_S = TICK_S / 2  # the longest sleep of a loop: the watchdog hears of it at every tick


class Endpoint(Protocol):
    """A node's end of the handoff."""

    def due_in(self, now: float) -> float: ...
    def sockets(self) -> list[zmq.Socket[bytes]]: ...
    def close(self) -> None: ...


class Loop(Protocol):
    def turn(self) -> bool: ...
    def due_in(self, now: float) -> float: ...
    def fail_all(self, code: str, message: str) -> None: ...


OpenEndpoint = Callable[[NodeOptions, Built, Epoch, bytes | None], tuple[Endpoint, str]]
MakeLoop = Callable[[Hello, Engine, Any, NodeMailbox, Callable[[], float]], Loop]


def run_node(options: NodeOptions, open_endpoint: OpenEndpoint, make_loop: MakeLoop) -> None:
    """Load the model, join the routers and serve until SIGTERM or SIGINT. Raises ConfigError before that.

    ``open_endpoint`` returns the node's end of the handoff and the address at which others reach it ("" for
    none).
    """
    stop, alarm = threading.Event(), Alarm()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    alarm.on_signals()
    logs.setup(options.log_level, options.log_format, options.node_id)
    status = Reporter(options.status_fd)
    secret = secret_for(options.secret_file, *options.routers, options.handoff)
    os.nice(options.niceness)  # before there are threads: they inherit it
    torch.set_num_threads(options.threads)
    source = resolve(options.model)
    built = build_engine(
        source,
        dtype=options.dtype,
        load_format=options.load_format,
        quantization=options.quantization,
        kv_cache_dtype=options.kv_cache_dtype,
        activation_bits=options.activation_bits,
        max_model_len=options.max_model_len,
        kv_cache_bytes=options.kv_cache_bytes,
        gpu_memory_utilization=options.gpu_memory_utilization,
        page_size=options.page_size,
        max_batch_tokens=options.max_batch_tokens,
        max_mixed_tokens=options.max_mixed_tokens,
        max_num_seqs=options.max_num_seqs,
        prefix_caching=options.prefix_caching,
        async_scheduling=options.async_scheduling,
        capture=captured_steps(options),
        deterministic=options.deterministic,
        progress=status.loading,
    )
    gc.collect()
    gc.freeze()  # what is here now stays: no collection between two steps need look at it
    epoch = Epoch(secrets.token_hex(8))
    endpoint, address = open_endpoint(options, built, epoch, secret)
    refusals: list[str] = []

    def refused(reason: str) -> None:
        refusals.append(reason)
        alarm.ring()

    hello = _hello(options, built, epoch, address, options.served_model_name or source.name)
    mailbox = NodeMailbox(hello, list(options.routers), secret, refused)
    try:
        watchdog = Watchdog(options.watchdog_s)
        loop = make_loop(hello, built.engine, endpoint, mailbox, watchdog.clock)
        config = built.engine.config
        status.ready(dtype=built.layout.dtype, num_pages=config.num_pages, max_model_len=config.max_model_len)
        watchdog.start()
        while not stop.is_set() and not refusals:
            if not loop.turn():
                now = time.monotonic()
                due_s = min(IDLE_S, loop.due_in(now), endpoint.due_in(now))
                alarm.wait([mailbox.socket, *endpoint.sockets()], due_s)
        loop.fail_all("node_stopped", "the node is stopping")
        loop.turn()
    except torch.OutOfMemoryError:  # to be started again: its pages are in an unknown state
        _log.error("%s", gpu_memory.full("computing a step", built.device))
        raise
    finally:
        mailbox.close()
        endpoint.close()
        alarm.close()
    if refusals:
        raise ConfigError(f"the router refused this node: {refusals[0]}")


def captured_steps(options: NodeOptions) -> tuple[str, ...]:
    if not options.cuda_graphs:
        return ()
    return CAPTURES if options.role == DECODE else (CHUNKS,)  # a prefill node decodes nothing


def _hello(options: NodeOptions, built: Built, epoch: Epoch, address: str, served: str) -> Hello:
    config = built.engine.config
    return Hello(
        node=NodeId(options.node_id),
        epoch=epoch,
        role=options.role,
        version=SPEAKS,
        pid=os.getpid(),
        layout=built.layout,
        address=address,
        served_model=served,
        max_model_len=config.max_model_len,
        num_pages=config.num_pages,
        page_size=config.page_size,
        max_batch_tokens=config.max_batch_tokens,
        max_num_seqs=config.max_num_seqs,
        prefix_caching=config.prefix_caching,
        topology=options.topology,
    )
