"""Which prefill node reads a prompt, and which decode node writes the answer.

Pure functions over what is known of the nodes, of the ways between them, and what this router has sent them.
Knows no message and no clock. ``Query`` carries the token ids so that a score may ask what a node has cached
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from pagewire.mailbox import Peer
from pagewire.messages import DECODE, PREFILL
from router.fleet import Fleet, Node
from router.reach import Link, Reach

Tried = frozenset[Peer | Link]  # what has failed the request: nodes, and pairs that did not reach each other


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


def choose(now: float, fleet: Fleet, ledger: Ledger, reach: Reach, query: Query, tried: Tried) -> Pair | None:
    """The best pair now, or None. Nodes in ``tried``, and silent ones, only where there are no others; a pair
    that is cut, to ``tried`` or to ``reach``, only where all are.

    The decode node alone stands in for both as a last resort, since whoever decodes there has to wait
    meanwhile: where ``query`` allows it, or where every pair is cut and one of them surely. Before that is
    known, the pair whose failure is the longest ago is asked once more.
    """
    decodes = [_Scored(_decode_score(node, ledger, tried), node) for node in fleet.of(DECODE)]
    prefills = [_Scored(_prefill_score(node, ledger, tried), node) for node in fleet.of(PREFILL)]
    if not decodes:
        return None
    alone = _Couple(min(decodes), min(decodes))
    if not prefills:
        return alone.pair if query.alone or fleet.colocated else None
    clear = _clear(now, reach, tried, decodes, prefills)
    if clear is not None:
        return (alone if query.alone and clear.link[0] in tried else clear).pair
    cut = [_Couple(*both) for both in product(decodes, prefills)]
    if query.alone or any(reach.sure(couple.link) for couple in cut):
        return alone.pair
    return min(cut, key=lambda c: (c.link in tried, reach.failed_at(c.link), c.score)).pair


Score = tuple[bool, bool, float, str]  # the lower the better; the name breaks ties the same way each time


class _Scored(NamedTuple):
    score: Score
    node: Node


class _Couple(NamedTuple):
    decode: _Scored
    prefill: _Scored

    @property
    def link(self) -> Link:
        return self.prefill.node.peer, self.decode.node.peer

    @property
    def pair(self) -> Pair:
        return Pair(*self.link, self.decode.node.hello.address)

    @property
    def score(self) -> tuple[int, int, Score, Score]:
        """How many were tried, how many are silent, then the decode node before the prefill node. Where no
        pair is cut, the lowest is that of the two lowest."""
        to, by = self.decode.score, self.prefill.score
        return (to[0] + by[0], to[1] + by[1], to, by)


def _clear(
    now: float, reach: Reach, tried: Tried, decodes: list[_Scored], prefills: list[_Scored]
) -> _Couple | None:
    """The lowest that is not cut."""

    def cut(couple: _Couple) -> bool:
        return couple.link in tried or reach.avoids(now, couple.link)

    best = _Couple(min(decodes), min(prefills))
    if not cut(best):
        return best
    others = (_Couple(*both) for both in product(decodes, prefills))
    return min((c for c in others if not cut(c)), key=lambda couple: couple.score, default=None)


def _prefill_score(node: Node, ledger: Ledger, tried: Tried) -> Score:
    queued = max(node.load.queued_tokens, ledger.prefilling.get(node.peer, 0))
    return (node.peer in tried, node.suspect, queued, node.hello.node)


def _decode_score(node: Node, ledger: Ledger, tried: Tried) -> Score:
    size = node.hello.page_size
    after_ours = node.hello.num_pages * size - ledger.decoding.get(node.peer, 0)
    free = min(node.load.pages_free * size, after_ours)
    return (node.peer in tried, node.suspect, -free, node.hello.node)


def _add(counts: dict[Peer, int], peer: Peer, amount: int) -> None:
    total = counts.get(peer, 0) + amount
    assert total >= 0
    if total:
        counts[peer] = total
    else:
        counts.pop(peer, None)
