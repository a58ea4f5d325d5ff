"""``pagewire scale``: more or fewer nodes for a ``pagewire serve`` that runs on this host.

The supervisor listens on a socket file that only its user can open; one request is a line of JSON, and so is
the answer. Knows counts and names; what they are is ``local``'s, and ``supervisor`` starts and ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pagewire.cli.children import ChildSpec
from pagewire.cli.local import Local
from pagewire.cli.supervisor import Supervisor
from pagewire.errors import ConfigError
from pagewire.private import state_folder

MOST = 256  # nodes of a role
LINE = 4096  # bytes
ASK_S = 5.0  # that a client has to say what it wants
READY_S = 900.0  # that new nodes have to be ready


def scale(
    prefill: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Prefill nodes from now on.")
    ] = None,
    decode: Annotated[int | None, typer.Option(metavar="N", min=1, help="Decode nodes from now on.")] = None,
    port: Annotated[int, typer.Option(metavar="PORT", help="That pagewire serve serves on.")] = 8000,
) -> None:
    """Add or remove nodes of a pagewire serve that runs on this host. No request fails for it.

    [bold]Example[/bold]:

        pagewire scale --prefill 2 --decode 3

    What is not given stays as it is. Nodes that go end what they have in hand, or give it back to go on
    elsewhere. Of nodes that can change their role only the number counts: see pagewire role.
    """
    wanted = {"prefill": prefill, "decode": decode}
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as line:
        line.settimeout(READY_S)
        try:
            line.connect(str(_path(port)))
            line.sendall(json.dumps({k: v for k, v in wanted.items() if v is not None}).encode() + b"\n")
            with line.makefile() as said:
                answer = json.loads(said.readline())
        except (OSError, ValueError) as error:
            raise ConfigError(f"no pagewire serve of yours answers for port {port}") from error
    if "error" in answer:
        raise ConfigError(answer["error"])
    for word in ("added", "removed"):
        if answer[word]:
            print(f"{word} {', '.join(answer[word])}")
    print(f"{answer['prefill']} prefill and {answer['decode']} decode nodes")


class Control:
    """The supervisor's end. One request at a time."""

    def __init__(self, supervisor: Supervisor, local: Local, folder: Path) -> None:
        self._supervisor = supervisor
        self._local = local
        self._folder = folder
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Where no folder of ours can be had, nobody is listened to."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(ConfigError, OSError):
                path = _path(self._local.router.port)
                path.unlink(missing_ok=True)  # of one that was killed: the port is ours now
                server = await asyncio.start_unix_server(self._hear, path, limit=LINE)
                stack.callback(path.unlink, missing_ok=True)
                stack.callback(server.close)
            yield

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                line = await reader.readline()
            async with self._turn:
                answer = await self._answer(line)
        except ConfigError as error:
            answer = {"error": str(error)}
        except (ValueError, TimeoutError):
            answer = {"error": "that is no request"}
        with contextlib.suppress(ConnectionError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        """Raises ConfigError, or ValueError."""
        local = self._wanted(json.loads(line))
        specs = {spec.name: spec for spec in local.specs(self._folder)}
        removed = [name for name in self._supervisor.names if name not in specs]
        added = [name for name in specs if name not in self._supervisor.names]
        local.check_memory(len(added))
        if added and local.gpus:
            raise ConfigError("the GPUs' memory was shared out when it started: no node can be added")
        async with asyncio.TaskGroup() as tasks:
            adding = [tasks.create_task(self._add(specs[name])) for name in added]
            for name in removed:
                tasks.create_task(self._supervisor.remove(name))
        self._local = local
        if failed := [reason for reason in (task.result() for task in adding) if reason]:
            raise ConfigError(failed[0])
        return {"added": added, "removed": removed, "prefill": local.prefill, "decode": local.decode}

    async def _add(self, spec: ChildSpec) -> str:
        """Why it could not be, or ""."""
        try:
            await self._supervisor.add(spec)
        except ConfigError as error:
            return f"{spec.name}: {error}"
        return ""

    def _wanted(self, asked: Any) -> Local:
        if not isinstance(asked, dict) or not asked.keys() <= {"prefill", "decode"}:
            raise ValueError("a map of counts")
        prefill, decode = asked.get("prefill", self._local.prefill), asked.get("decode", self._local.decode)
        if type(prefill) is not int or type(decode) is not int:
            raise ValueError("counts")
        if not (0 <= prefill <= MOST and 1 <= decode <= MOST):
            raise ConfigError(f"there can be 0 to {MOST} prefill nodes and 1 to {MOST} decode nodes")
        if prefill == 0 and not self._local.router.colocated:
            raise ConfigError("it was started with prefill nodes: one has to stay")
        return replace(self._local, prefill=prefill, decode=decode)


def _path(port: int) -> Path:
    return state_folder() / f"serve-{port}.sock"
