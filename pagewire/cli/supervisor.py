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
from pagewire.errors import ConfigError

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
        self._specs = {spec.name: spec for spec in specs}
        self._view = view
        self._on_ready = on_ready
        self._grace = grace
        self._alive: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[End]] = {}
        self._ready: set[str] = set()  # children that have been ready at least once
        self._news = asyncio.Event()  # a child has become ready or given up; then there is a new one
        self._stop = asyncio.Event()

    async def run(self) -> End:
        """Start everything and keep it running until there is a reason to end; then end everything."""
        self._over: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._listen()
        others = [asyncio.create_task(self._asked()), asyncio.create_task(self._announce())]
        self._tasks = {name: asyncio.create_task(self._keep(spec)) for name, spec in self._specs.items()}
        for task in (*others, *self._tasks.values()):
            task.add_done_callback(self._ended)
        try:
            return await self._over
        finally:
            left = [*others, *self._tasks.values()]
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            await self._end_all()

    # --- while it runs --------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return list(self._specs)

    async def add(self, spec: ChildSpec) -> None:
        """Start one more child, and wait until it is ready. Raises ConfigError if it does not become so."""
        assert spec.name not in self._specs
        self._specs[spec.name] = spec
        task = self._tasks[spec.name] = asyncio.create_task(self._keep(spec))
        task.add_done_callback(lambda _: self._tell())
        await self._until(lambda: task.done() or spec.name in self._ready)
        if task.done():
            del self._specs[spec.name], self._tasks[spec.name]
            raise ConfigError(task.result().message)
        task.add_done_callback(self._ended)

    async def remove(self, name: str) -> None:
        """End a child for good, as all are ended."""
        del self._specs[name]
        self._ready.discard(name)
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.wait([task])
        if (child := self._alive.get(name)) is not None:
            await self._end([child], asyncio.get_running_loop().time() + self._grace)
            del self._alive[name]

    # --- tasks ----------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            await self._news.wait()

    def _ended(self, task: asyncio.Task[End]) -> None:
        """The first one to come to an end ends everything."""
        if task.cancelled() or self._over.done():
            return
        if (error := task.exception()) is not None:
            self._over.set_exception(error)
        else:
            self._over.set_result(task.result())

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
        await self._until(lambda: self._specs.keys() <= self._ready)
        await self._on_ready({name: self._alive[name].pid for name in self._specs if name in self._alive})
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
                self._tell()

    async def _end_all(self) -> None:
        """The first one before the others, which it may need for that; all together have the time of one."""
        until = asyncio.get_running_loop().time() + self._grace
        first = next(iter(self._specs), "")
        await self._end([child for name, child in self._alive.items() if name == first], until)
        await self._end(list(self._alive.values()), until)

    async def _end(self, children: Sequence[Child], until: float) -> None:
        for child in children:
            child.terminate()
        ends = [asyncio.create_task(child.wait()) for child in children]
        if ends:
            await asyncio.wait(ends, timeout=until - asyncio.get_running_loop().time())
            for child in children:
                child.kill()
            await asyncio.wait(ends)

    def _kill_all(self) -> None:
        for child in self._alive.values():
            child.kill()
