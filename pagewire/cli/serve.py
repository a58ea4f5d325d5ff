"""``pagewire serve``: the router and all nodes on this host, under one supervisor.

Knows flags and what the user is told. ``local`` says what is started, ``supervisor`` keeps it alive.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Annotated, Literal

import typer

from pagewire import hub
from pagewire.cli import addresses, machine
from pagewire.cli.flags import DEFAULT_MODEL, AdminPort, EngineFlags, Model
from pagewire.cli.folder import new_secret, private_folder
from pagewire.cli.groups import grouped
from pagewire.cli.local import Local
from pagewire.cli.name_flags import NameFlags
from pagewire.cli.progress import view_for
from pagewire.cli.router_flags import HttpFlags
from pagewire.cli.scale import Control
from pagewire.cli.supervisor import GRACE, End, Supervisor
from pagewire.cli.welcome import banner, until_ready
from pagewire.errors import ConfigError

Transport = Literal["auto", "shm", "tcp"]


@grouped
def serve(
    names: NameFlags,
    http: HttpFlags,
    engine: EngineFlags,
    model: Model = DEFAULT_MODEL,
    model_option: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The same as the argument.")
    ] = DEFAULT_MODEL,
    prefill: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Prefill nodes: they read prompts. 0: the decode nodes do it themselves."
        ),
    ] = 1,
    decode: Annotated[int, typer.Option(metavar="N", min=1, help="Decode nodes: they write answers.")] = 1,
    transport: Annotated[
        Transport,
        typer.Option(metavar="KIND", help="How KV travels between the nodes: auto, shm or tcp. auto is shm."),
    ] = "auto",
    admin_port: AdminPort = None,
) -> None:
    """Serve a model on this host: a router, prefill nodes and decode nodes, each a process of its own.

    [bold]Try it[/bold] with a small model that the set-up fetched:

        pagewire serve

    [bold]A model from the hub[/bold], with two prefill nodes and three decode nodes:

        pagewire serve Qwen/Qwen3-0.6B --prefill 2 --decode 3 --kv-cache-memory 4GiB

    [bold]A GGUF file[/bold] for the local network, with a key:

        pagewire serve ./model.gguf --host 0.0.0.0 --api-key-file keys

    Ctrl-C ends everything. For several hosts, see: pagewire router --help
    """
    model = _one_of(model, model_option)
    local = Local(
        prefill=prefill,
        decode=decode,
        transport=transport,
        node=replace(engine.options(model, names, nodes=prefill + decode), grace_s=GRACE - 1.0),
        flexible=http.autorole or admin_port is not None,
        gpus=machine.gpus(),
        cores=0 if engine.threads else machine.cores_to_share(prefill + decode),
        router=replace(
            http.options(model, names),
            port=addresses.free_port(http.host, http.port),
            colocated=prefill == 0,
            admin_port=admin_port,
            grace_s=GRACE - 1.0,  # it must have said goodbye to its clients before it is killed
        ),
    )
    local.check_memory(prefill + decode)
    source = hub.resolve(model)  # here, once: all nodes would download it at the same time
    end = asyncio.run(_supervise(local, names.names[0] if names.names else source.name))
    if end.message:
        print(f"pagewire: {end.message}", file=sys.stderr)
    raise typer.Exit(end.code)


def _one_of(argument: str, option: str) -> str:
    """The model, if not two different ones are named."""
    if DEFAULT_MODEL not in (argument, option) and argument != option:
        raise ConfigError(f"two models are named: {argument} and {option}")
    return option if argument == DEFAULT_MODEL else argument


async def _supervise(local: Local, name: str) -> End:
    with private_folder() as folder:
        if local.transport == "tcp":
            # Other users of this host can reach a port of 127.0.0.1: the nodes prove who they are.
            local = local.with_secret(str(new_secret(folder)))
        specs = local.specs(folder)
        view = view_for([spec.name for spec in specs], local.router.log_format)

        async def announce(pids: dict[str, int]) -> None:
            await until_ready(local.router)
            view.close()
            print(banner(local.router, name, pids), flush=True)

        supervisor = Supervisor(specs, view, announce)
        try:
            async with Control(supervisor, local, folder).listening():
                return await supervisor.run()
        finally:
            view.close()
