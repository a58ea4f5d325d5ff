"""What this router has put on each node and what has not left it again.

Pure. Knows attempts, peers and token counts; knows no clock (``now`` is an argument). A node's own report is
one heartbeat old: of two requests in the same instant, the second must see the first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pagewire.mailbox import Peer

_Key = tuple[str, int]  # request, attempt


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
    _open: dict[_Key, _Entry] = field(default_factory=dict)
    _reading: dict[Peer, dict[_Key, float]] = field(default_factory=dict)  # when each was sent there

    def opened(
        self,
        now: float,
        request: str,
        attempt: int,
        link: tuple[Peer, Peer],
        *,
        prompt: int,
        unread: int,
        reserve: int,
    ) -> None:
        """``link`` is the prefill node and the decode node."""
        key, entry = (request, attempt), _Entry(*link, prompt, unread, reserve)
        assert key not in self._open
        self._open[key] = entry
        self._reading.setdefault(entry.prefill, {})[key] = now
        self.placed += 1
        _add(self.prefilling, entry.prefill, prompt)
        _add(self.unread, entry.prefill, unread)
        _add(self.decoding, entry.decode, reserve)
        _add(self.writing, entry.decode, 1)

    def handed(self, request: str, attempt: int) -> None:
        """The prompt is read. Idempotent."""
        key = (request, attempt)
        entry = self._open[key]
        reading = self._reading.get(entry.prefill, {})
        if reading.pop(key, None) is not None:
            if not reading:
                del self._reading[entry.prefill]
            _add(self.prefilling, entry.prefill, -entry.prompt)
            _add(self.unread, entry.prefill, -entry.unread)

    def reading(self, peer: Peer) -> int:
        """How many prompts are at ``peer`` to be read."""
        return len(self._reading.get(peer, ()))

    def unread_since(self, peer: Peer, when: float) -> int:
        """Of ``unread``, what was sent after ``when``."""
        total = 0
        for key, sent in reversed(self._reading.get(peer, {}).items()):
            if sent <= when:
                break
            total += self._open[key].unread
        return total

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
