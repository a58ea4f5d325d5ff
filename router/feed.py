"""What a client has yet to read: a bounded meeting point of the token stream and one HTTP handler.

Knows deltas and sizes; knows no node, no socket and no JSON. A handler that lags gets a choice's deltas
merged, a few at a time; one that lags too far is cut off. One that has taken all may have a ``tap``, which
is offered each delta first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pagewire.errors import PagewireError, RequestFailed
from pagewire.messages import TokenItem

MAX_UNREAD_BYTES = 1 << 20
MAX_UNREAD_EVENTS = 256  # a choice
AT_ONCE = 16  # events that are taken together: more would keep all others waiting while they are spelled
_ITEM_BYTES = 64  # a token without log-probabilities, roughly


class SlowReader(RequestFailed):
    code = "slow_reader"
    status = 503


@dataclass(slots=True)
class Delta:
    """News of one choice. ``index`` is the choice's number in the reply. ``finish`` is "" while it goes on.

    ``text`` may lag behind ``items``: half a character or the beginning of a stop string is held back.
    """

    index: int
    text: str = ""
    items: list[TokenItem] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of each item's text in the choice's text
    finish: str = ""
    stop_reason: str | int | None = None

    def add(self, later: Delta) -> None:
        self.text += later.text
        self.items += later.items
        self.offsets += later.offsets
        if later.finish:
            self.finish, self.stop_reason = later.finish, later.stop_reason


class Feed:
    """Deltas of all choices of one HTTP request. Used on one event loop."""

    def __init__(self, choices: int, *, unlimited: bool = False) -> None:
        """``unlimited``: the reader takes all as it comes and its own memory is bounded by ``max_tokens``."""
        self._unread: deque[Delta] = deque()
        self._bytes = 0
        self._max_events = MAX_UNREAD_EVENTS * choices
        self._unlimited = unlimited
        self._closed = False
        self._error: PagewireError | None = None
        self._reader: asyncio.Future[None] | None = None  # who waits; an Event would cost a token more
        self.tap: Callable[[Delta], bool] | None = None  # takes a delta in a reader's place, or not

    def put(self, delta: Delta) -> bool:
        """Add ``delta``. False if the reader is too slow: then the feed has closed with SlowReader."""
        if self._closed:
            return True
        if self._reader is not None and not self._unread and self.tap is not None and self.tap(delta):
            return True
        self._unread.append(delta)
        self._bytes += _bytes_of(delta)
        self._wake()
        if not self._unlimited and (self._bytes > MAX_UNREAD_BYTES or len(self._unread) > self._max_events):
            self._unread.clear()
            self.close(SlowReader("the client read too slowly"))
            return False
        return True

    def close(self, error: PagewireError | None = None) -> None:
        """No more will come: what is unread can be taken, then ``error`` is raised. The first call counts."""
        if not self._closed:
            self._closed, self._error = True, error
            self._wake()

    async def take(self) -> list[Delta]:
        """What is unread, once there is something, a delta a choice; [] at the end. Raises what it was closed
        with."""
        if not self._unread and not self._closed:
            assert self._reader is None, "one reader"
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        elif len(self._unread) > AT_ONCE:
            await asyncio.sleep(0)  # others first: this one is behind
        if self._unread:
            taken: dict[int, Delta] = {}
            for _ in range(min(AT_ONCE, len(self._unread))):
                delta = self._unread.popleft()
                self._bytes -= _bytes_of(delta)
                if (first := taken.setdefault(delta.index, delta)) is not delta:
                    first.add(delta)
            return list(taken.values())
        if self._error is not None:
            raise self._error
        return []

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _bytes_of(delta: Delta) -> int:
    return len(delta.text) * 4 + sum(_ITEM_BYTES * (1 + len(item.top)) for item in delta.items)
