"""What this router has put on each node and what has not left it again.

Pure. Knows attempts, peers and token counts; knows no clock. A node's own report is one heartbeat old: of two
requests in the same instant, the second must see the first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pagewire.mailbox import Peer


class _Entry(NamedTuple):
    prefill: Peer
    decode: Peer
    prompt: int
    unread: int
    reserve: int


@dataclass(slots=True)
class Ledger:
    """``prefilling`` counts whole prompts, ``unread`` what of them is believed to be in no cache there,
    ``decoding`` the tokens reserved, ``writing`` the attempts. ``placed`` counts all that there ever were."""

    prefilling: Counter[Peer] = field(default_factory=Counter)
    unread: Counter[Peer] = field(default_factory=Counter)
    decoding: Counter[Peer] = field(default_factory=Counter)
    writing: Counter[Peer] = field(default_factory=Counter)
    placed: int = field(default=0, compare=False)
    _open: dict[tuple[str, int], _Entry] = field(default_factory=dict)
    _at_prefill: set[tuple[str, int]] = field(default_factory=set)

    def opened(
        self, request: str, attempt: int, link: tuple[Peer, Peer], prompt: int, unread: int, reserve: int
    ) -> None:
        """``link`` is the prefill node and the decode node."""
        key, entry = (request, attempt), _Entry(*link, prompt, unread, reserve)
        assert key not in self._open
        self._open[key] = entry
        self._at_prefill.add(key)
        self.placed += 1
        _add(self.prefilling, entry.prefill, prompt)
        _add(self.unread, entry.prefill, unread)
        _add(self.decoding, entry.decode, reserve)
        _add(self.writing, entry.decode, 1)

    def handed(self, request: str, attempt: int) -> None:
        """The prompt is read. Idempotent."""
        key = (request, attempt)
        if key in self._at_prefill:
            self._at_prefill.remove(key)
            entry = self._open[key]
            _add(self.prefilling, entry.prefill, -entry.prompt)
            _add(self.unread, entry.prefill, -entry.unread)

    def closed(self, request: str, attempt: int) -> None:
        self.handed(request, attempt)
        entry = self._open.pop((request, attempt))
        _add(self.decoding, entry.decode, -entry.reserve)
        _add(self.writing, entry.decode, -1)


def _add(counts: Counter[Peer], peer: Peer, amount: int) -> None:
    counts[peer] += amount
    assert counts[peer] >= 0
    if not counts[peer]:
        del counts[peer]
