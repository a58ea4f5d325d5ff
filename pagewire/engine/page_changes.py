"""Which labels came into a page pool and left it since somebody last asked.

Knows labels, and nothing of pages, messages or time. What came and left in between is not told. So both sets
together are never larger than twice the pool, whether anybody asks or not.
"""

from __future__ import annotations

from typing import NamedTuple


class Changes(NamedTuple):
    added: list[bytes]
    evicted: list[bytes]


class PageChanges:
    def __init__(self) -> None:
        self._added: set[bytes] = set()
        self._evicted: set[bytes] = set()

    def came(self, label: bytes) -> None:
        if label in self._evicted:
            self._evicted.remove(label)
        else:
            self._added.add(label)

    def left(self, label: bytes) -> None:
        if label in self._added:
            self._added.remove(label)
        else:
            self._evicted.add(label)

    def take(self) -> Changes:
        """The changes since the last call."""
        found = Changes(list(self._added), list(self._evicted))
        self._added.clear()
        self._evicted.clear()
        return found
