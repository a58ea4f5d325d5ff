"""Hearing of changes in the directory as they happen, and sleeping until then.

Knows one subscription in redis; what changed it does not know: that is in the store (``membership.store``).
"""

from __future__ import annotations

import selectors
import socket
import time
from typing import Any

import redis

from pagewire.membership.store import ANSWER_S

_REST_S = 0.01  # that the rest of a message may take when its beginning is here
_AT_ONCE = 1000  # messages that are read in a row


class Changes:
    """A subscription to ``channels``, over a connection of its own. Raises redis.RedisError or OSError."""

    def __init__(self, client: Any, channels: list[str]) -> None:
        """Returns when redis has taken the subscription: whatever is listed from then on misses nothing."""
        self._pubsub: Any = client.pubsub()
        self._asked = False
        self._pubsub.subscribe(*channels)
        due = time.monotonic() + ANSWER_S
        for _ in channels:
            if self._pubsub.get_message(timeout=max(_REST_S, due - time.monotonic())) is None:
                raise redis.TimeoutError("it did not take a subscription in time")

    def ask(self) -> None:
        """Ask for a sign of life. Raises redis.ConnectionError if there was none since the last time: then
        changes would not reach us either.
        """
        self._read()
        if self._asked:
            raise redis.ConnectionError("it does not tell of changes any more")
        self._asked = True
        self._pubsub.ping()

    def wait(self, wake: socket.socket, seconds: float) -> bool:
        """Sleep until something changed (True), ``wake`` is readable, or ``seconds`` have passed."""
        end = time.monotonic() + seconds
        while not self._read():
            with selectors.DefaultSelector() as selector:
                for each in (wake, self._socket()):
                    selector.register(each, selectors.EVENT_READ)
                ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready or any(key.fileobj is wake for key, _ in ready):
                return False
        return True

    def close(self) -> None:
        self._pubsub.close()

    def _socket(self) -> socket.socket:
        """redis-py has no public way to sleep on a connection and on something else."""
        found: socket.socket | None = self._pubsub.connection._sock
        if found is None:
            raise redis.ConnectionError("it hung up")
        return found

    def _read(self) -> bool:
        """Read what is here. True if some of it tells of a change."""
        changed = False
        for _ in range(_AT_ONCE):
            if (message := self._pubsub.get_message(timeout=_REST_S)) is None:
                break
            self._asked = self._asked and message["type"] != "pong"
            changed = changed or message["type"] == "message"
        return changed
