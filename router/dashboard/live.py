"""One look a second at the router, shared by all who watch the page.

Knows the service and its clock; what is shown is shaped in ``snapshot`` and ``series``. While nobody watches,
a second costs one point. A watcher that does not keep up is sent everything anew: nothing is stored for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pagewire import __version__
from pagewire.errors import Unavailable
from pagewire.messages import Load
from router.dashboard.series import Point, Series
from router.dashboard.snapshot import node_view, row, ways
from router.finished import Finished
from router.service import Service

EVERY_S = 1.0
ROWS = 60  # of the waterfall
FRESH = 500  # ended requests between two looks that are looked at
MAX_WATCHERS = 16


class Live:
    """``wall`` gives Unix time. ``tick`` is called by ``run``, or by a test."""

    def __init__(self, service: Service, model: str, wall: Callable[[], float] = time.time) -> None:
        self.watchers = 0
        self._service = service
        self._model = model
        self._wall = wall
        self._started = wall()
        self._series = Series()
        self._rows: deque[dict[str, Any]] = deque(maxlen=ROWS)
        self._ended: deque[Finished] = deque(maxlen=FRESH)  # since the last look
        self._before: dict[str, Load] = {}
        self._before_at = service.clock()
        self._count = 0
        self._tick = b""
        self._pulse = asyncio.Event()  # of the next tick
        service.requests.recorder.observers.append(self._ended.append)

    async def run(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(EVERY_S)

    def tick(self) -> None:
        service, now, unix = self._service, self._service.clock(), self._wall()
        point = self._series.sample(now, unix, service.metrics, service.fleet, service.inflight)
        fresh = [row(request, now, unix) for request in list(self._ended)[-ROWS:]]
        self._rows.extend(fresh)
        self._count += 1
        if self.watchers:
            self._tick = _event("tick", {"state": self._state(now), "point": point._asdict(), "rows": fresh})
        self._ended.clear()
        self._before = {node.hello.node: node.load for node in service.fleet.nodes.values()}
        self._before_at = now
        self._pulse.set()
        self._pulse = asyncio.Event()

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: "all" first, then a "tick" a second, until the router drains. Raises
        Unavailable if too many watch already."""
        if self.watchers >= MAX_WATCHERS:
            raise Unavailable("too many watch the dashboard", status=429, retry_after=10.0)
        self.watchers += 1
        try:
            seen = self._count
            yield self._all()
            while not self._service.draining:
                if self._count == seen:
                    await self._pulse.wait()
                yield self._tick if self._count == seen + 1 else self._all()
                seen = self._count
        finally:
            self.watchers -= 1

    def _all(self) -> bytes:
        state = self._state(self._service.clock())
        return _event("all", {"state": state, "points": self._series.columns(), "rows": list(self._rows)})

    def _state(self, now: float) -> dict[str, Any]:
        service = self._service
        nodes = sorted(service.fleet.nodes.values(), key=lambda node: (node.role, node.hello.node))
        since = now - self._before_at
        last: Point | None = self._series.points[-1] if self._series.points else None
        return {
            "model": self._model,
            "version": __version__,
            "status": "ready" if service.ready else "draining" if service.draining else "waiting",
            "up_s": round(self._wall() - self._started),
            "inflight": service.inflight,
            "limit": service.options.max_inflight,
            "request_rate": last.request_rate if last else 0.0,
            "nodes": [node_view(now, node, self._before.get(node.hello.node), since) for node in nodes],
            "ways": ways(service.requests, self._ended),
        }


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
