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
from pagewire.cli.directory_flags import DirectoryFlags, SecretFile
from pagewire.cli.flags import DEFAULT_MODEL, AdminPort, EngineFlags, Grace, Handoff, Model, NodeFlags
from pagewire.cli.groups import grouped
from pagewire.cli.name_flags import NameFlags
from pagewire.cli.progress import view_for
from pagewire.cli.router_flags import HttpFlags
from pagewire.errors import ConfigError
from pagewire.membership.url import addresses_of
from pagewire.messages import DECODE, PREFILL
from pagewire.node_options import NodeOptions
from pagewire.topology import place_of

RoleName = Literal["prefill", "decode"]


@grouped
def router(
    names: NameFlags,
    http: HttpFlags,
    directory: DirectoryFlags,
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
    advertise: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="What the directory is to say of --listen, if nodes dial another address. Default: the "
            "same, with this host's address on the way to redis for 0.0.0.0.",
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

    [bold]Several routers[/bold] and nodes that find each other in a redis:

        export PAGEWIRE_REGISTRY=redis://10.0.0.9:6379/0

        pagewire router MODEL --listen tcp://0.0.0.0:7500 --host 0.0.0.0 --api-key-file keys

        pagewire prefill MODEL

        pagewire decode MODEL --handoff tcp://0.0.0.0:7600
    """
    addresses.free_port(http.host, http.port)
    mailbox = addresses.mailbox(listen, "--listen")
    registry = directory.found()
    if advertise is not None and registry is None:
        raise ConfigError("--advertise is for the directory: it needs --registry")
    options = replace(
        http.options(model, names),
        mailbox=mailbox,
        router_id=router_id,
        secret_file=secret_file,
        registry=registry,
        cluster=directory.cluster,
        advertise=addresses.advertised(listen, advertise, addresses_of(registry)[0]) if registry else "",
        admin_port=admin_port,
        grace_s=grace,
    )
    roles.run(options)


@grouped
def prefill(
    names: NameFlags,
    node: NodeFlags,
    directory: DirectoryFlags,
    engine: EngineFlags,
    model: Model = DEFAULT_MODEL,
) -> None:
    """Run one prefill node: it reads prompts, and sends their KV to the decode nodes that the router names.

    [bold]Example[/bold]:

        pagewire prefill MODEL --router tcp://10.0.0.1:7500 --cluster-secret-file secret

    It listens nowhere. See pagewire router --help for a whole cluster.
    """
    _run(PREFILL, node, _member(engine.options(model, names, nodes=1), node, directory))


@grouped
def decode(
    names: NameFlags,
    node: NodeFlags,
    directory: DirectoryFlags,
    engine: EngineFlags,
    model: Model = DEFAULT_MODEL,
    handoff: Handoff = "tcp://127.0.0.1:0",
) -> None:
    """Run one decode node: it takes over requests whose prompt was read elsewhere, and writes their answers.

    [bold]Example[/bold]:

        pagewire decode MODEL --router tcp://10.0.0.1:7500 --handoff tcp://10.0.0.3:7600

    See pagewire router --help for a whole cluster.
    """
    options = _member(engine.options(model, names, nodes=1), node, directory)
    _run(DECODE, node, _reached(options, node, handoff))


@grouped
def worker(
    names: NameFlags,
    node: NodeFlags,
    directory: DirectoryFlags,
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
    options = replace(_member(engine.options(model, names, nodes=1), node, directory), flexible=True)
    _run(role, node, _reached(options, node, handoff), name="worker")


def _reached(options: NodeOptions, node: NodeFlags, handoff: str) -> NodeOptions:
    """``options`` with where prefill nodes reach it. Raises ConfigError."""
    (far, *_) = options.routers or addresses_of(options.registry)
    return replace(options, handoff=addresses.handoff(handoff, far, trusted=node.trusted_network))


def _member(options: NodeOptions, node: NodeFlags, directory: DirectoryFlags) -> NodeOptions:
    """``options`` with how the node finds its routers. Raises ConfigError."""
    routers = tuple(addresses.mailbox(address, "--router") for address in node.router or ())
    registry = directory.found()
    if routers and registry is not None:
        raise ConfigError("--router and --registry exclude each other: routers are in the directory")
    if not routers and registry is None:
        raise ConfigError("--router: give the --listen address of a router, or --registry")
    return replace(options, routers=routers, registry=registry, cluster=directory.cluster)


def _run(role: str, node: NodeFlags, options: NodeOptions, *, name: str = "") -> None:
    # Before torch is loaded: its thread pools read the environment once.
    os.environ.update(local.thread_environment(options.threads))
    topology = node.topology or ""
    place_of(topology)
    name = node.node_id or f"{name or role}-{socket.gethostname()}"
    options = replace(
        options,
        role=role,
        node_id=name,
        topology=topology,
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
