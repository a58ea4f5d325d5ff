"""Members of a cluster for tests, in a line each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from real_redis import RedisServer, until

from pagewire.membership.record import Record, RecordKey, key_of
from pagewire.membership.redis_registry import RedisRegistry
from pagewire.membership.url import parse
from pagewire.messages import ROUTER

SECRET = b"s" * 32
KEY = key_of(SECRET)
ROUTER_A = Record(
    cluster="c",
    kind=ROUTER,
    name="a",
    epoch="e1",
    generation=0,
    address="tcp://10.0.0.1:7500",
    version="0.1.0",
    model="m",
)


def record(**fields: Any) -> Record:
    return replace(ROUTER_A, **fields)


class Member:
    """``mine`` in the directory ``url``, and what it saw there last."""

    def __init__(
        self, url: str, mine: Record, *, key: RecordKey = KEY, watch: tuple[str, ...] = (ROUTER,)
    ) -> None:
        self.seen: list[Record] = []
        self.looks = 0
        self.registry = RedisRegistry(parse(url), key, mine, watch, self._see)

    def _see(self, records: list[Record]) -> None:
        self.seen, self.looks = records, self.looks + 1

    def names(self) -> set[str]:
        return {record.name for record in self.seen}

    def sees(self, *names: str, within: float = 5.0) -> None:
        until(lambda: self.names() == set(names), within)

    def looks_again(self, times: int = 2) -> None:
        """Until it has looked from now on: with 2, one look began after now."""
        goal = self.looks + times
        until(lambda: self.looks >= goal)


@contextmanager
def member(server: RedisServer | str, mine: Record, **more: Any) -> Iterator[Member]:
    made = Member(server if isinstance(server, str) else server.url, mine, **more)
    try:
        yield made
    finally:
        made.registry.leave()
