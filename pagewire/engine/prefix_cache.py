"""Which pages already hold the KV of a prompt's beginning.

Knows token ids and their hash chain (``pagewire.page_chain``); the pool keeps the pages, their labels and the
order of eviction. Knows no tensor and no request.
"""

from __future__ import annotations

from typing import NamedTuple

from pagewire.engine.pages import PagePool
from pagewire.engine.sequence import Sequence
from pagewire.page_chain import extend_chain


class CacheStats(NamedTuple):
    """Tokens asked for and found, over the life of the cache."""

    queried: int
    hit: int


class PrefixCache:
    def __init__(self, pool: PagePool, enabled: bool = True) -> None:
        self.pool = pool
        self.enabled = enabled
        self._queried = 0
        self._hit = 0

    @property
    def stats(self) -> CacheStats:
        return CacheStats(self._queried, self._hit)

    def match(self, tokens: list[int], salt: str, hashes: list[bytes]) -> list[int]:
        """The longest run of pages that hold the first tokens of ``tokens``; empty if the cache is off.

        Never all of ``tokens``: one must be left to compute, or there would be no logits. ``hashes`` is the
        chain known so far (empty at first), and is extended in place. The pages may be only cached: share
        them before anything else takes pages.
        """
        if not self.enabled:
            return []
        limit = (len(tokens) - 1) // self.pool.page_size
        extend_chain(hashes, tokens, salt, self.pool.page_size, limit)
        pages: list[int] = []
        for label in hashes[:limit]:
            if (page := self.pool.find(label)) is None:
                break
            pages.append(page)
        return pages

    def count(self, queried: int, hit: int) -> None:
        """Record that ``hit`` tokens of ``queried`` were taken from the cache."""
        self._queried += queried
        self._hit += hit

    def publish(self, seq: Sequence) -> None:
        """Offer the full, computed pages of ``seq`` that were not offered before.

        The first page with a hash wins; a duplicate stays private to its holders.
        """
        lease = seq.lease
        assert lease is not None
        full = seq.num_computed // self.pool.page_size
        if not self.enabled or full <= lease.offered:
            return
        extend_chain(seq.page_hashes, seq.tokens, seq.cache_salt, self.pool.page_size, full)
        for i in range(lease.offered, full):
            self.pool.label(lease.pages[i], seq.page_hashes[i])
        lease.offered = full
