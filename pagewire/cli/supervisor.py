"""Keeps a set of child processes alive, and ends all of them when it is asked to, or one is beyond help.

Knows processes, signals and time; knows nothing of models, routers or nodes. Each child hangs on a pipe that
only this process holds (see ``pagewire.lifeline``), so that ``kill -9`` of the supervisor ends them as well.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from pagewire import status
from pagewire.cli.children import Child, ChildSpec, View
from pagewire.cli.restarts import Restarts

GRACE = 5.0  # seconds from SIGTERM to SIGKILL
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class End(NamedTuple):
    """Why everything ends: the command's exit code, and a sentence if there is something to say."""

    code: int
    message: str = ""


class Supervisor:
    """``on_ready`` is called once, with the pid of each child, when all have become ready.

    To be made and run in the main thread, inside a running loop.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        view: View,
        on_ready: Callable[[dict[str, int]], Awaitable[None]],
        *,
        grace: float = GRACE,
    ) -> None:
        self._specs = specs
        self._view = view
        self._on_ready = on_ready
        self._grace = grace
        self._alive: dict[str, Child] = {}
        self._ready: set[str] = set()  # children that have been ready at least once
        self._all_ready = asyncio.Event()
        self._stop = asyncio.Event()

    async def run(self) -> End:
        """Start everything and keep it running until there is a reason to end; then end everything."""
        self._listen()
        tasks: list[asyncio.Task[End]] = [
            asyncio.create_task(self._asked()),
            asyncio.create_task(self._announce()),
            *(asyncio.create_task(self._keep(spec)) for spec in self._specs),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._end_all()
        return done.pop().result()

    def _listen(self) -> None:
        for number in _STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                asyncio.get_running_loop().add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if self._stop.is_set():  # the second time, somebody is impatient
            self._kill_all()
        self._stop.set()

    async def _asked(self) -> End:
        await self._stop.wait()
        return End(0)

    async def _announce(self) -> End:
        await self._all_ready.wait()
        alive = self._alive
        await self._on_ready({s.name: alive[s.name].pid for s in self._specs if s.name in alive})
        return await self._asked()

    async def _keep(self, spec: ChildSpec) -> End:
        """Start the child again and again; returns only when that has become pointless."""
        restarts, clock = Restarts(), asyncio.get_running_loop().time
        while True:
            started = clock()
            child = self._alive[spec.name] = await Child.start(spec, self._heard, self._view)
            ended = await child.wait()
            del self._alive[spec.name]
            if child.failed is not None and spec.name not in self._ready:
                return End(2, child.failed.message)
            delay = restarts.died(clock() - started)
            if delay is None:
                tail = "\n".join(f"  {line}" for line in child.tail)
                return End(
                    1, f"{spec.name} {ended}, {restarts.failures} times in a row; its last words:\n{tail}"
                )
            self._view.restarting(spec.name, ended, delay)
            await asyncio.sleep(delay)

    def _heard(self, child: Child, event: status.Event) -> None:
        match event:
            case status.Loading():
                self._view.loading(child.spec.name, event)
            case status.Ready():
                self._view.ready(child.spec.name, child.pid, event)
                self._ready.add(child.spec.name)
                if all(spec.name in self._ready for spec in self._specs):
                    self._all_ready.set()

    async def _end_all(self) -> None:
        for child in self._alive.values():
            child.terminate()
        ends = [asyncio.create_task(child.wait()) for child in self._alive.values()]
        if ends:
            await asyncio.wait(ends, timeout=self._grace)
            self._kill_all()
            await asyncio.wait(ends)

    def _kill_all(self) -> None:
        for child in self._alive.values():
            child.kill()
