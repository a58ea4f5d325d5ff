"""``pagewire router``, ``prefill``, ``decode``, ``worker``: one process each, in the foreground.

For several hosts. Knows flags and addresses. What keeps services alive on a host (systemd, compose)
supervises them.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace
from typing import Annotated, Literal

import typer

from pagewire import status
from pagewire.cli import addresses, local, roles
from pagewire.cli.flags import (
    DEFAULT_MODEL,
    AdminPort,
    EngineFlags,
    Grace,
    Handoff,
    Model,
    NodeFlags,
    SecretFile,
)
from pagewire.cli.groups import grouped
from pagewire.cli.name_flags import NameFlags
from pagewire.cli.progress import view_for
from pagewire.cli.router_flags import HttpFlags
from pagewire.messages import DECODE, PREFILL
from pagewire.node_options import NodeOptions

RoleName = Literal["prefill", "decode"]


@grouped
def router(
    names: NameFlags,
    http: HttpFlags,
    model: Model = DEFAULT_MODEL,
    listen: Annotated[
        str,
        typer.Option(
            metavar="tcp://HOST:PORT", help="Where nodes reach this router.", rich_help_panel="Cluster"
        ),
    ] = "tcp://127.0.0.1:7500",
    router_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name that no other router has. Default: a new one.",
            rich_help_panel="Cluster",
        ),
    ] = None,
    secret_file: SecretFile = None,
    admin_port: AdminPort = None,
    grace: Grace = 30.0,
) -> None:
    """Run one router: HTTP for clients, and a mailbox that nodes dial. Needs no torch.

    [bold]Three hosts[/bold], 10.0.0.1 to 10.0.0.3, with the same secret file on each:

        head -c 32 /dev/urandom > secret; chmod 400 secret

        export PAGEWIRE_CLUSTER_SECRET_FILE=secret

        pagewire router MODEL --listen tcp://0.0.0.0:7500 --host 0.0.0.0 --api-key-file keys

        pagewire prefill MODEL --router tcp://10.0.0.1:7500

        pagewire decode MODEL --router tcp://10.0.0.1:7500 --handoff tcp://0.0.0.0:7600

    The router reads only the tokenizer of the model. Nodes may come and go while it runs.
    """
    addresses.free_port(http.host, http.port)
    mailbox = addresses.mailbox(listen, "--listen")
    options = http.options(model, names)
    roles.run(
        replace(
            options,
            mailbox=mailbox,
            router_id=router_id,
            secret_file=secret_file,
            admin_port=admin_port,
            grace_s=grace,
        )
    )


@grouped
def prefill(names: NameFlags, node: NodeFlags, engine: EngineFlags, model: Model = DEFAULT_MODEL) -> None:
    """Run one prefill node: it reads prompts, and sends their KV to the decode nodes that the router names.

    [bold]Example[/bold]:

        pagewire prefill MODEL --router tcp://10.0.0.1:7500 --cluster-secret-file secret

    It listens nowhere. See pagewire router --help for a whole cluster.
    """
    _run(PREFILL, node, engine.options(model, names, nodes=1), handoff="")


@grouped
def decode(
    names: NameFlags,
    node: NodeFlags,
    engine: EngineFlags,
    model: Model = DEFAULT_MODEL,
    handoff: Handoff = "tcp://127.0.0.1:0",
) -> None:
    """Run one decode node: it takes over requests whose prompt was read elsewhere, and writes their answers.

    [bold]Example[/bold]:

        pagewire decode MODEL --router tcp://10.0.0.1:7500 --handoff tcp://10.0.0.3:7600

    See pagewire router --help for a whole cluster.
    """
    _run(DECODE, node, engine.options(model, names, nodes=1), handoff=_handoff(node, handoff))


@grouped
def worker(
    names: NameFlags,
    node: NodeFlags,
    engine: EngineFlags,
    model: Model = DEFAULT_MODEL,
    role: Annotated[
        RoleName, typer.Option(metavar="ROLE", help="What it begins as: prefill or decode.")
    ] = "decode",
    handoff: Handoff = "tcp://127.0.0.1:0",
) -> None:
    """Run one node that can do both, and change its role while it runs.

    [bold]Example[/bold]:

        pagewire worker MODEL --role prefill --router tcp://10.0.0.1:7500 --handoff tcp://10.0.0.3:7600

    What it has in hand it ends as what it was begun: see pagewire role --help.
    """
    options = replace(engine.options(model, names, nodes=1), flexible=True)
    _run(role, node, options, handoff=_handoff(node, handoff), name="worker")


def _handoff(node: NodeFlags, address: str) -> str:
    return addresses.handoff(address, _routers(node)[0], trusted=node.trusted_network)


def _run(role: str, node: NodeFlags, options: NodeOptions, *, handoff: str, name: str = "") -> None:
    # Before torch is loaded: its thread pools read the environment once.
    os.environ.update(local.thread_environment(options.threads))
    name = node.node_id or f"{name or role}-{socket.gethostname()}"
    options = replace(
        options,
        role=role,
        node_id=name,
        routers=_routers(node),
        handoff=handoff,
        secret_file=node.secret_file,
        trusted_network=node.trusted_network,
        grace_s=node.grace,
        status_fd=_shown(name, options.log_format),
    )
    try:
        roles.run(options)
    finally:
        assert options.status_fd is not None
        os.close(options.status_fd)


def _shown(name: str, log_format: str) -> int:
    """A descriptor for a node's status: what is written to it is shown by a thread of this process."""
    reader, writer = os.pipe()
    threading.Thread(target=_show, args=(name, log_format, reader), name="status", daemon=True).start()
    return writer


def _show(name: str, log_format: str, reader: int) -> None:
    view = view_for([name], log_format)
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            match status.parse(line):
                case status.Loading() as event:
                    view.loading(name, event)
                case status.Ready() as event:
                    view.close()
                    view.ready(name, os.getpid(), event)


def _routers(node: NodeFlags) -> tuple[str, ...]:
    return tuple(addresses.mailbox(address, "--router") for address in node.router)
