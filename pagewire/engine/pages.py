"""Who may use which page of the KV cache.

Knows page numbers, how many leases hold each page, and an opaque label on pages worth keeping. Knows no
tensor, no token and no hash function: ``pagewire.engine.prefix_cache`` makes the labels.

A page is in exactly one of three places:

    free     nobody holds it and nothing is known of its content
    cached   nobody holds it, but its label can be asked for again; evicted least recently used first
    leased   one or more leases hold it

``free + cached + leased == total`` always. Several leases may hold one page only if it is full, through a
prefix hit or a fork. Nobody writes it again: the holder of a lease writes only behind such pages.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagewire.engine.page_changes import PageChanges


@dataclass(slots=True, eq=False)
class PageLease:
    """The right to some pages, in the order of their tokens. It moves, and is released exactly once."""

    pages: list[int] = field(default_factory=list)  # grows at its end, and changes nowhere else
    offered: int = 0  # leading pages that the prefix cache has already been offered
    _array: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32), repr=False)

    def array(self) -> NDArray[np.int32]:
        """``pages`` for those who compute with them at every step."""
        if len(self._array) != len(self.pages):
            self._array = np.array(self.pages, np.int32)
        return self._array


class Fork(NamedTuple):
    """A second lease over the same tokens. Copy each ``(source, destination)`` page before use."""

    lease: PageLease
    copies: list[tuple[int, int]]


class PageAccounts(NamedTuple):
    """Pages by place. ``balanced`` is the conservation law."""

    free: int
    cached: int
    leased: int
    total: int

    @property
    def balanced(self) -> bool:
        return self.free + self.cached + self.leased == self.total


class PagePool:
    """``num_pages`` pages of ``page_size`` tokens each. All verbs are O(pages touched)."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        assert num_pages > 0
        assert page_size > 0
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(reversed(range(num_pages)))  # a stack: the page that was freed last is warm
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._holders = [0] * num_pages
        self._generation = [0] * num_pages
        self._label: list[bytes | None] = [None] * num_pages
        self._by_label: dict[bytes, int] = {}
        self._leases: set[PageLease] = set()
        self.changes = PageChanges()  # of labels

    @property
    def labels(self) -> list[bytes]:
        """Of all pages that can be found."""
        return list(self._by_label)

    @property
    def available(self) -> int:
        """Pages that ``grow`` can hand out now: free ones, and cached ones by eviction."""
        return len(self._free) + len(self._cached)

    def pages_for(self, tokens: int) -> int:
        """How many pages hold ``tokens`` tokens."""
        return -(-tokens // self.page_size)

    def generation(self, page: int) -> int:
        """How often ``page`` was handed out for new content. Tells a reuse from a share."""
        return self._generation[page]

    def generations(self, lease: PageLease) -> list[int] | None:
        """Those of all pages of ``lease``; None once it has ended."""
        return [self._generation[page] for page in lease.pages] if lease in self._leases else None

    def lease(self) -> PageLease:
        """A new lease over no page."""
        lease = PageLease()
        self._leases.add(lease)
        return lease

    def grow(self, lease: PageLease, count: int) -> bool:
        """Add ``count`` more pages of unknown content to ``lease``, or none at all and return False."""
        assert lease in self._leases
        if count > self.available:
            return False
        lease.pages += [self._hand_out() for _ in range(count)]
        return True

    def share(self, lease: PageLease, pages: list[int]) -> None:
        """Add labelled ``pages``, cached or leased by others, to ``lease``, which holds none yet.

        Take them before growing, which may evict what is only cached.
        """
        assert lease in self._leases
        assert not lease.pages
        for page in pages:
            assert self._label[page] is not None
            self._hold(page)
        lease.pages += pages
        lease.offered = len(pages)

    def fork(self, lease: PageLease, num_tokens: int) -> Fork | None:
        """A lease of its own for a second continuation of the first ``num_tokens`` tokens of ``lease``.

        The full pages are shared. A partial last page is a fresh one that the caller fills by copying.
        Returns None, with nothing changed, if there is no page for that.
        """
        assert lease in self._leases
        full, rest = divmod(num_tokens, self.page_size)
        assert self.pages_for(num_tokens) <= len(lease.pages)
        if rest and not self.available:
            return None
        child = self.lease()
        for page in lease.pages[:full]:
            self._hold(page)
        child.pages = lease.pages[:full]
        child.offered = min(lease.offered, full)
        if not rest:
            return Fork(child, [])
        self.grow(child, 1)
        return Fork(child, [(lease.pages[full], child.pages[full])])

    def release(self, lease: PageLease) -> None:
        """End ``lease``. Its pages that nobody else holds become cached if they bear a label, else free.

        From the last page to the first, so that the tail of a prompt is evicted before its head, without
        which it could not be found.
        """
        assert lease in self._leases, "released twice, or not of this pool"
        self._leases.remove(lease)
        for page in reversed(lease.pages):
            self._let_go(page)

    def label(self, page: int, label: bytes) -> bool:
        """Make ``page``, full and leased, findable as ``label``. False if another page has that label."""
        assert self._holders[page] > 0
        assert self._label[page] is None
        if self._by_label.setdefault(label, page) != page:
            return False
        self._label[page] = label
        self.changes.came(label)
        return True

    def find(self, label: bytes) -> int | None:
        """The page with that label, cached or leased."""
        return self._by_label.get(label)

    def reclaimable(self, pages: list[int]) -> int:
        """How many of ``pages`` are counted in ``available``, and would not be once they are shared."""
        return sum(page in self._cached for page in pages)

    def accounts(self) -> PageAccounts:
        leased = self.num_pages - self._holders.count(0)
        return PageAccounts(len(self._free), len(self._cached), leased, self.num_pages)

    def check(self) -> None:
        """Assert the conservation law and that every count agrees with the live leases. O(all pages)."""
        assert self.accounts().balanced, self.accounts()
        held = Counter(page for lease in self._leases for page in lease.pages)
        assert self._holders == [held[page] for page in range(self.num_pages)]
        places = [*self._free, *self._cached, *held]
        assert sorted(places) == list(range(self.num_pages))
        assert all(self._label[page] is None for page in self._free)
        assert all(self._label[page] is not None for page in self._cached)
        labelled = {label: page for page, label in enumerate(self._label) if label is not None}
        assert labelled == self._by_label

    def _hand_out(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._cached.popitem(last=False)
            self._drop_label(page)
        self._generation[page] += 1
        self._holders[page] = 1
        return page

    def _hold(self, page: int) -> None:
        if self._holders[page] == 0:
            del self._cached[page]
        self._holders[page] += 1

    def _let_go(self, page: int) -> None:
        self._holders[page] -= 1
        if self._holders[page]:
            return
        if self._label[page] is not None:
            self._cached[page] = None
        else:
            self._free.append(page)

    def _drop_label(self, page: int) -> None:
        label = self._label[page]
        assert label is not None
        del self._by_label[label]
        self._label[page] = None
        self.changes.left(label)
