"""What all nodes have in common as programs: start, loop, drain, stop.

Knows options, the engine, the mailbox and signals. Which roles a node has, and which way KV travels, is the
business of the callables that the program hands in.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import zmq

from pagewire import logs
from pagewire.engine import gpu_memory
from pagewire.engine.build import CAPTURES, CHUNKS, Built, build_engine
from pagewire.errors import ConfigError
from pagewire.hub import ModelSource, resolve
from pagewire.mailbox import SPEAKS, NodeMailbox
from pagewire.membership.enrol import enrol_node
from pagewire.membership.url import addresses_of
from pagewire.messages import PREFILL, Epoch, Hello, NodeId
from pagewire.node_loop import NodeLoop
from pagewire.node_options import NodeOptions
from pagewire.node_role import MakeRole
from pagewire.open_files import allow_files
from pagewire.secret import secret_for
from pagewire.status import Reporter
from pagewire.stopping import Stopping
from pagewire.waiting import Alarm
from pagewire.watchdog import TICK_S, Watchdog

_log = logging.getLogger("pagewire.node")
IDLE_S = TICK_S / 2  # the longest sleep of a loop: the watchdog hears of it at every tick


class Endpoint(Protocol):
    """A node's end of the handoff."""

    def due_in(self, now: float) -> float: ...
    def sockets(self) -> list[zmq.Socket[bytes]]: ...
    def close(self) -> None: ...


class OpenRole(NamedTuple):
    """One role of a node: its end of the handoff, and the address at which others reach it ("": none do)."""

    endpoint: Endpoint
    make: MakeRole
    address: str = ""


Opener = Callable[[NodeOptions, Built, Epoch, bytes | None], OpenRole]


def run_node(options: NodeOptions, openers: Mapping[str, Opener]) -> None:
    """Load the model, join the routers and serve, in the roles that ``openers`` open, until SIGTERM or
    SIGINT. Raises ConfigError before that.

    The first signal drains: routers send nothing new, and what is in hand has ``grace_s`` to end before it is
    given back to them, to go on elsewhere. A second one does not wait.
    """
    stopping, alarm = Stopping(options.grace_s), Alarm()
    stopping.on_signals()
    alarm.on_signals()
    logs.setup(options.log_level, options.log_format, options.node_id)
    allow_files()
    status = Reporter(options.status_fd)
    secret = secret_for(
        options.secret_file, *options.routers, options.handoff, *addresses_of(options.registry)
    )
    os.nice(options.niceness)  # before there are threads: they inherit it
    torch.set_num_threads(options.threads)
    source = resolve(options.model)
    built = _build(options, source, status)
    gc.collect()
    gc.freeze()  # what is here now stays: no collection between two steps need look at it
    epoch = Epoch(secrets.token_hex(8))
    opened = {name: opener(options, built, epoch, secret) for name, opener in openers.items()}
    endpoints = [role.endpoint for role in opened.values()]
    refusals: list[str] = []

    def refused(reason: str) -> None:
        refusals.append(reason)
        alarm.ring()

    hello = _hello(options, built, epoch, opened, options.served_model_name or source.name)
    # Of the routers that a directory lists, none may end a node: what it holds against us may pass.
    mailbox = NodeMailbox(hello, list(options.routers), secret, refused if options.routers else None)
    leave = enrol_node(options.registry, options.cluster, hello, mailbox, secret)

    def drain() -> None:
        _log.info("draining: nothing new is taken, what is in hand has time to end")
        mailbox.start_draining()
        threading.Thread(target=leave, name="leaving", daemon=True).start()  # redis may be away

    try:
        watchdog = Watchdog(options.watchdog_s)
        makes = {name: role.make for name, role in opened.items()}
        loop = NodeLoop(hello, built.engine, mailbox, watchdog.clock, makes)
        config = built.engine.config
        status.ready(dtype=built.layout.dtype, num_pages=config.num_pages, max_model_len=config.max_model_len)
        watchdog.start()
        while not refusals and not _stops(stopping, loop, drain):
            if not loop.turn():
                _sleep(loop, mailbox, endpoints, alarm)
        loop.fail_all("node_stopped", "the node is stopping")
        loop.turn()
    except torch.OutOfMemoryError:  # to be started again: its pages are in an unknown state
        _log.error("%s", gpu_memory.full("computing a step", built.device))
        raise
    finally:
        leave()
        mailbox.close()
        for endpoint in endpoints:
            endpoint.close()
        alarm.close()
    if refusals:
        who = "the router" if len(options.routers) == 1 else "every router"
        raise ConfigError(f"{who} refused this node: {refusals[0]}")


def _stops(stopping: Stopping, loop: NodeLoop, drain: Callable[[], None]) -> bool:
    now = time.monotonic()
    if stopping.begins(now):
        drain()
    return stopping.over(now, idle=loop.idle)


def _sleep(loop: NodeLoop, mailbox: NodeMailbox, endpoints: Sequence[Endpoint], alarm: Alarm) -> None:
    now = time.monotonic()
    due_s = min(IDLE_S, loop.due_in(now), *(endpoint.due_in(now) for endpoint in endpoints))
    alarm.wait([mailbox.socket, *(socket for end in endpoints for socket in end.sockets())], due_s)


def _build(options: NodeOptions, source: ModelSource, status: Reporter) -> Built:
    return build_engine(
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


def captured_steps(options: NodeOptions) -> tuple[str, ...]:
    if not options.cuda_graphs:
        return ()
    return (CHUNKS,) if options.role == PREFILL and not options.flexible else CAPTURES


def _hello(
    options: NodeOptions, built: Built, epoch: Epoch, roles: Mapping[str, OpenRole], served: str
) -> Hello:
    config = built.engine.config
    return Hello(
        node=NodeId(options.node_id),
        epoch=epoch,
        role=options.role,
        version=SPEAKS,
        pid=os.getpid(),
        layout=built.layout,
        address="".join(role.address for role in roles.values()),  # one of them listens at most
        served_model=served,
        max_model_len=config.max_model_len,
        num_pages=config.num_pages,
        page_size=config.page_size,
        max_batch_tokens=config.max_batch_tokens,
        max_num_seqs=config.max_num_seqs,
        prefix_caching=config.prefix_caching,
        roles=list(roles) if len(roles) > 1 else [],
        topology=options.topology,
    )
