"""``pagewire doctor``: what this machine has, and what pagewire will make of it.

Looks and tells; changes nothing. The only command that loads torch just to ask it something.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pagewire import __version__, hub, packages
from pagewire.cli import machine, sizes
from pagewire.errors import ConfigError

Facts = dict[str, Any]
Report = dict[str, Facts]
_BYTES = ("memory available", "cgroup memory left", "shared memory free")
_REDIS = ("127.0.0.1", 6379)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Say what this machine has and what pagewire will use. Exit code 1 if something must be mended.

    [bold]Examples[/bold]:

        pagewire doctor

        pagewire doctor --json
    """
    found = report()
    if as_json:
        print(json.dumps(found))
    else:
        _show(found)
    raise typer.Exit(1 if found["pagewire"]["problems"] else 0)


def report() -> Report:
    """Facts in sections. "problems" of "pagewire" are sentences: what keeps it from working here."""
    torch = _torch()
    return {
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cpu": machine.cpu_name(),
            "cores": machine.cores(),
            "cgroup cpus": machine.cgroup_cpus(),
            "instruction sets": list(machine.isa()),
            "memory available": machine.memory_available(),
            "cgroup memory left": machine.cgroup_memory(),
            "shared memory free": machine.shm_free(),
        },
        "software": torch | {"triton": _version("triton"), "redis server": _redis()},
        "pagewire": {"version": __version__, "demo model": _demo_model(), "problems": _problems(torch)},
        "pagewire serve": {
            "nodes": "1 prefill, 1 decode",
            "threads of each node": max(1, machine.cores() // 2),
            "transport": "shm",
            "dtype": "bfloat16" if torch["gpus"] else "float32",
        },
    }


def _torch() -> Facts:
    if importlib.util.find_spec("torch") is None:
        return {"torch": None, "cuda": None, "gpus": []}
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "gpus": [f"{gpu.name}, {sizes.format_size(gpu.total_memory)}" for gpu in gpus],
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _redis() -> str:
    beside_python = shutil.which("redis-server", path=str(Path(sys.executable).parent))
    installed = shutil.which("redis-server") or beside_python
    return f"{'installed' if installed else 'not installed'}, {_redis_answer()}"


def _redis_answer() -> str:
    where = f"{_REDIS[0]}:{_REDIS[1]}"
    try:
        with socket.create_connection(_REDIS, timeout=0.3) as connection:
            connection.sendall(b"PING\r\n")
            return f"answers at {where}" if connection.recv(16) else f"hangs up at {where}"
    except OSError:
        return f"none at {where}"


def _demo_model() -> str:
    try:
        return hub.resolve(hub.DEMO).path.name
    except ConfigError as error:
        return str(error)


def _problems(torch: Facts) -> list[str]:
    problems = []
    if torch["torch"] is None:
        problems.append(
            "torch is not installed, so only a router can run here: pip install 'pagewire[worker]'"
        )
    try:
        packages.check(thorough=True)
    except ConfigError as error:
        problems.append(str(error))
    return problems


def _show(found: Report) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for section, facts in found.items():
        table.add_row(f"[cyan]{section}[/cyan]", "")
        for name, value in facts.items():
            table.add_row(f"  {name}", _words(name, value))
    Console().print(table)


def _words(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in _BYTES:
        return sizes.format_size(value)
    if isinstance(value, list):
        return "\n".join(value) if name == "problems" and value else ", ".join(value) or "none"
    return str(value)
