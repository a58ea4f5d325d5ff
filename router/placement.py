"""Which prefill node reads a prompt, and which decode node writes the answer.

Pure functions over what is known of the nodes and what this router has sent them. Knows no message and no
clock. ``Query`` carries the token ids so that a score may ask what a node has cached of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pagewire.mailbox import Peer
from pagewire.messages import DECODE, PREFILL
from router.fleet import Fleet, Node


class Query(NamedTuple):
    """What is to be placed. ``reserve`` is how many tokens it may hold at its end. ``alone``: a decode node
    may read the prompt itself, where there is no prefill node that has not been tried."""

    tokens: Sequence[int]
    reserve: int
    cache_salt: str = ""
    alone: bool = False


class Pair(NamedTuple):
    """The chosen nodes, perhaps the same one; ``address`` is where the handoff reaches the decode node."""

    prefill: Peer
    decode: Peer
    address: str


class _Entry(NamedTuple):
    pair: Pair
    prompt: int
    reserve: int


@dataclass(slots=True)
class Ledger:
    """Tokens that this router has put on each node and that have not left it again.

    A node's own report is one heartbeat old: of two requests in the same instant, the second must see the
    first.
    """

    prefilling: dict[Peer, int] = field(default_factory=dict)  # prompt tokens
    decoding: dict[Peer, int] = field(default_factory=dict)  # tokens reserved
    _open: dict[tuple[str, int], _Entry] = field(default_factory=dict)
    _at_prefill: set[tuple[str, int]] = field(default_factory=set)

    def opened(self, request: str, attempt: int, pair: Pair, query: Query) -> None:
        key, entry = (request, attempt), _Entry(pair, len(query.tokens), query.reserve)
        assert key not in self._open
        self._open[key] = entry
        self._at_prefill.add(key)
        _add(self.prefilling, pair.prefill, entry.prompt)
        _add(self.decoding, pair.decode, entry.reserve)

    def handed(self, request: str, attempt: int) -> None:
        """The prompt is read. Idempotent."""
        key = (request, attempt)
        if key in self._at_prefill:
            self._at_prefill.remove(key)
            _add(self.prefilling, self._open[key].pair.prefill, -self._open[key].prompt)

    def closed(self, request: str, attempt: int) -> None:
        self.handed(request, attempt)
        entry = self._open.pop((request, attempt))
        _add(self.decoding, entry.pair.decode, -entry.reserve)


def choose(fleet: Fleet, ledger: Ledger, query: Query, tried: frozenset[Peer]) -> Pair | None:
    """The best pair now, or None. Nodes in ``tried``, and silent ones, only where there are no others.

    The decode node alone stands in for both as a last resort: whoever decodes there has to wait meanwhile.
    """
    prefill = _best((_prefill_score(n, ledger, tried), n) for n in fleet.of(PREFILL))
    decode = _best((_decode_score(n, ledger, tried), n) for n in fleet.of(DECODE))
    if decode is not None and query.alone and (prefill is None or prefill.peer in tried):
        prefill = decode
    if prefill is None or decode is None:
        return None
    return Pair(prefill.peer, decode.peer, decode.hello.address)


Score = tuple[bool, bool, float, str]  # the lower the better; the name breaks ties the same way each time


def _prefill_score(node: Node, ledger: Ledger, tried: frozenset[Peer]) -> Score:
    queued = max(node.load.queued_tokens, ledger.prefilling.get(node.peer, 0))
    return (node.peer in tried, node.suspect, queued, node.hello.node)


def _decode_score(node: Node, ledger: Ledger, tried: frozenset[Peer]) -> Score:
    size = node.hello.page_size
    after_ours = node.hello.num_pages * size - ledger.decoding.get(node.peer, 0)
    free = min(node.load.pages_free * size, after_ours)
    return (node.peer in tried, node.suspect, -free, node.hello.node)


def _best(scored: Iterable[tuple[Score, Node]]) -> Node | None:
    return min(scored, key=lambda pair: pair[0], default=(None, None))[1]


def _add(counts: dict[Peer, int], peer: Peer, amount: int) -> None:
    total = counts.get(peer, 0) + amount
    assert total >= 0
    if total:
        counts[peer] = total
    else:
        counts.pop(peer, None)
