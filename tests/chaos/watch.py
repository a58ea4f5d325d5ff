"""A watched child's trace, what it is asked to do, and which pages its open transfers use.

Knows requests, pages and marks; knows no mailbox and no transfer's end: see ``watched_child`` and
``watched_wire`` for the edges at which it is called.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from marks import Mark

from pagewire.messages import PrefillRequest, TokenItem

HOLD_S = 5.0  # a node that nobody lets go goes on by itself


class Watch:
    """The trace, and what is known of the marked requests that passed here."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._file = (folder / f"{name}.{os.getpid()}.trace").open("a", buffering=1)
        self._limits: dict[tuple[str, int], int] = {}
        self._holds: dict[str, str] = {}

    def __call__(self, kind: str, **facts: Any) -> None:
        self._file.write(json.dumps([time.monotonic(), kind, facts]) + "\n")

    def know(self, message: PrefillRequest) -> None:
        """An attempt has come to this node, from the router or with a reservation."""
        mark = Mark.of(message.seed)
        if mark is None or not (self._folder / "armed").exists():
            return
        emitted = len(message.tokens) - message.num_prompt
        if message.attempt == 0:
            limit = mark.cut
            if mark.hold:
                self._holds[message.request] = mark.hold
        else:
            limit = mark.again if mark.again is not None and emitted == mark.cut else None
        if limit is not None:
            self._limits[message.request, message.attempt] = limit

    def keeps(self, item: TokenItem) -> bool:
        """True if the router is not to learn of ``item``."""
        limit = self._limits.get((item.request, item.attempt))
        return limit is not None and item.index >= limit

    def hold(self, point: str, request: str) -> None:
        """Stand still, once, if ``request`` asks for it at ``point``."""
        if self._holds.get(request) != point:
            return
        del self._holds[request]
        self("hold", point=point, request=request)
        end = time.monotonic() + HOLD_S
        while not (self._folder / f"go-{request}").exists() and time.monotonic() < end:
            time.sleep(0.0005)
        self("go", request=request, let_go=time.monotonic() < end)


class PageGuard:
    """Which pages an open transfer reads from or writes to; notes a page that is handed out meanwhile."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._users: dict[int, set[str]] = defaultdict(set)
        self._pages: dict[str, set[int]] = {}
        self.page_size = 0  # of this process's pool, once it is there
        self.handed = self.written = 0

    def use(self, transfer: str, slots: Any) -> None:
        self.end(transfer)
        pages = self._pages[transfer] = self._of(slots)
        for page in pages:
            self._users[page].add(transfer)

    def end(self, transfer: str) -> None:
        """The transfer is terminal, or has given its pages back."""
        for page in self._pages.pop(transfer, ()):
            self._users[page].discard(transfer)

    def hand_out(self, page: int) -> None:
        self.handed += 1
        if self._users[page]:
            self._watch("reused", page=page, transfers=sorted(self._users[page]))

    def write(self, slots: Any) -> list[str]:
        """The receiver writes there. Returns the transfers to which all those pages belong."""
        self.written += 1
        pages = self._of(slots)
        owners = set.intersection(*(self._users[page] for page in pages))
        if not owners:
            self._watch("stray_write", pages=sorted(pages))
        return sorted(owners)

    def _of(self, slots: Any) -> set[int]:
        return set((slots // self.page_size).tolist())
