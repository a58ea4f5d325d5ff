"""Who holds how much of one prompt, for fleets in which everybody holds something of it.

Knows sets of nodes as bits of a number, and whoever can tell which bit is whose. Nothing is written out node
by node before it is asked for: the first page of a prompt is often everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from pagewire.mailbox import Peer


class Level(NamedTuple):
    """The nodes ``bits`` hold exactly so many leading tokens."""

    tokens: int
    bits: int


class Bits(Protocol):
    def bit_of(self, peer: Peer) -> int: ...

    def peers_of(self, bits: int) -> Iterator[Peer]: ...


class Held(Mapping[Peer, int]):
    """Leading tokens by node, whoever holds most first. No node is in two ``levels``. Good until a node comes
    or goes."""

    def __init__(self, levels: Iterable[Level], nodes: Bits) -> None:
        self._levels = sorted(levels, reverse=True)
        self._nodes = nodes

    def __getitem__(self, peer: Peer) -> int:
        bit = self._nodes.bit_of(peer)
        for tokens, bits in self._levels:
            if bits & bit:
                return tokens
        raise KeyError(peer)

    def get(self, peer: Peer, default: int = 0) -> int:  # type: ignore[override]
        """As of a dict, without the price of an exception: it is asked of each node that comes into
        question."""
        bit = self._nodes.bit_of(peer)
        return next((tokens for tokens, bits in self._levels if bits & bit), default)

    def __iter__(self) -> Iterator[Peer]:
        return (peer for _, bits in self._levels for peer in self._nodes.peers_of(bits))

    def __len__(self) -> int:
        return sum(bits.bit_count() for _, bits in self._levels)
