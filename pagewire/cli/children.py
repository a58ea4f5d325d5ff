"""One child process and its three pipes. Knows how a child is started, heard and ended; decides nothing.

    stdin   its options as one line of JSON; then held open, as its lifeline (``pagewire.lifeline``)
    stdout  what it reports (``pagewire.status``)
    stderr  its log

A child leads a process group of its own: the terminal's Ctrl-C reaches the supervisor alone, and a child that
is stopped when the supervisor dies is woken by the kernel (its group is orphaned) and can end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pagewire import status
from pagewire.errors import RemoteProtocolError

TAIL_LINES = 20
_MAX_LINE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to start. ``env`` is laid over our own environment."""

    name: str
    argv: tuple[str, ...]
    options: str = "{}"  # one line of JSON
    env: Mapping[str, str] = field(default_factory=dict)


class View(Protocol):
    """Who shows people what happens to the children."""

    def loading(self, name: str, event: status.Loading) -> None: ...
    def ready(self, name: str, pid: int, event: status.Ready) -> None: ...
    def log(self, name: str, line: str) -> None: ...
    def restarting(self, name: str, ended: str, delay: float) -> None: ...


class Child:
    """One life of a child process, from ``start`` to ``wait``."""

    def __init__(self, spec: ChildSpec, process: asyncio.subprocess.Process, on_event: OnEvent, view: View):
        self.spec = spec
        self.pid = process.pid
        self.failed: status.Failed | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)  # the last lines of its log
        self._process = process
        self._view = view
        self._on_event = on_event
        self._readers = [asyncio.create_task(self._read_status()), asyncio.create_task(self._read_log())]

    @classmethod
    async def start(cls, spec: ChildSpec, on_event: OnEvent, view: View) -> Child:
        # Forked by the calling thread, which must be the main one: Linux ties the child's life to it.
        process = await asyncio.create_subprocess_exec(
            *spec.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | spec.env,
            process_group=0,
        )
        assert process.stdin is not None
        process.stdin.write(spec.options.encode() + b"\n")
        return cls(spec, process, on_event, view)

    async def wait(self) -> str:
        """Until the process has ended and said all it had to say. Returns how it ended, for people."""
        code = await self._process.wait()
        # A grandchild may hold the pipes open: what it says is not waited for.
        await asyncio.wait(self._readers, timeout=1.0)
        for reader in self._readers:
            reader.cancel()
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _read_status(self) -> None:
        async for line in _lines(self._process.stdout):
            try:
                event = status.parse(line)
            except RemoteProtocolError:  # something in the child prints to its standard output
                self._log(line)
                continue
            if isinstance(event, status.Failed):
                self.failed = event
            self._on_event(self, event)

    async def _read_log(self) -> None:
        async for line in _lines(self._process.stderr):
            self._log(line)

    def _log(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip().rpartition("\r")[2]  # of a progress bar, its last state
        self.tail.append(text)
        self._view.log(self.spec.name, text)


OnEvent = Callable[[Child, status.Event], None]


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    """Lines without their ends. One that is longer than any honest line comes in parts."""
    assert stream is not None
    rest = b""
    while chunk := await stream.read(_MAX_LINE):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) >= _MAX_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest
