from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pagewire.engine.pages import PageAccounts, PageLease, PagePool


def leased(pool: PagePool, count: int, labels: str = "") -> PageLease:
    """A lease of ``count`` pages; the first of them bear the letters of ``labels``."""
    lease = pool.lease()
    assert pool.grow(lease, count)
    for page, letter in zip(lease.pages, labels, strict=False):
        pool.label(page, letter.encode())
    return lease


def test_a_new_pool_is_all_free() -> None:
    assert PagePool(5, 4).accounts() == PageAccounts(free=5, cached=0, leased=0, total=5)


def test_pages_for_rounds_up() -> None:
    assert [PagePool(5, 4).pages_for(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_grow_is_all_or_nothing() -> None:
    pool = PagePool(3, 4)
    lease = leased(pool, 2)
    assert not pool.grow(lease, 2)
    assert len(lease.pages) == 2


def test_a_second_release_is_refused() -> None:
    pool = PagePool(3, 4)
    lease = leased(pool, 1)
    pool.release(lease)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(lease)


def test_a_lease_of_another_pool_is_refused() -> None:
    with pytest.raises(AssertionError):
        PagePool(3, 4).release(PagePool(3, 4).lease())


def test_unlabelled_pages_become_free_and_labelled_ones_cached() -> None:
    pool = PagePool(3, 4)
    pool.release(leased(pool, 2, "a"))
    assert pool.accounts() == PageAccounts(free=2, cached=1, leased=0, total=3)


def test_free_pages_go_before_cached_ones() -> None:
    pool = PagePool(3, 4)
    pool.release(leased(pool, 2, "ab"))
    leased(pool, 1)
    assert pool.accounts().cached == 2


def test_the_tail_of_a_prompt_is_evicted_before_its_head() -> None:
    pool = PagePool(3, 4)
    pool.release(leased(pool, 3, "abc"))
    leased(pool, 1)
    assert [pool.find(label) is not None for label in (b"a", b"b", b"c")] == [True, True, False]


def test_the_least_recently_used_prompt_is_evicted_first() -> None:
    pool = PagePool(2, 4)
    first, second = leased(pool, 1, "a"), leased(pool, 1, "b")
    pool.release(first)
    pool.release(second)
    again = pool.lease()
    pool.share(again, [pool.find(b"a") or 0])
    pool.release(again)
    leased(pool, 1)
    assert pool.find(b"b") is None
    assert pool.find(b"a") is not None


def test_a_shared_page_is_kept_until_its_last_holder_lets_go() -> None:
    pool = PagePool(2, 4)
    first, second = leased(pool, 1, "a"), pool.lease()
    pool.share(second, first.pages)
    pool.release(first)
    assert pool.accounts().leased == 1


def test_only_cached_pages_are_reclaimable() -> None:
    pool = PagePool(3, 4)
    held, gone = leased(pool, 1, "a"), leased(pool, 1, "b")
    pool.release(gone)
    assert pool.reclaimable(held.pages + gone.pages) == 1


def test_the_first_page_with_a_label_wins() -> None:
    pool = PagePool(2, 4)
    first, second = leased(pool, 1, "a"), leased(pool, 1)
    assert not pool.label(second.pages[0], b"a")
    assert pool.find(b"a") == first.pages[0]


def test_a_generation_tells_reuse_from_a_share() -> None:
    pool = PagePool(1, 4)
    lease = leased(pool, 1, "a")
    (page,) = lease.pages
    pool.release(lease)
    again = pool.lease()
    pool.share(again, [page])
    assert pool.generation(page) == 1
    pool.release(again)
    leased(pool, 1)
    assert pool.generation(page) == 2


def test_a_fork_shares_full_pages_and_copies_the_partial_one() -> None:
    pool = PagePool(8, 4)
    lease = leased(pool, 3)
    fork = pool.fork(lease, 6)
    assert fork is not None
    assert fork.lease.pages[:1] == lease.pages[:1]
    assert fork.copies == [(lease.pages[1], fork.lease.pages[1])]
    assert not set(fork.lease.pages[1:]) & set(lease.pages)


def test_a_fork_at_a_page_boundary_needs_no_page() -> None:
    pool = PagePool(2, 4)
    fork = pool.fork(leased(pool, 2), 8)
    assert fork is not None
    assert fork.copies == []


def test_a_fork_without_a_page_for_the_copy_changes_nothing() -> None:
    pool = PagePool(2, 4)
    assert pool.fork(leased(pool, 2), 7) is None
    pool.check()


def test_check_sees_a_leak() -> None:
    pool = PagePool(2, 4)
    leased(pool, 2).pages.pop()
    with pytest.raises(AssertionError):
        pool.check()


class PoolMachine(RuleBasedStateMachine):
    """The pool against a model: what each lease holds, and which content each label names."""

    PAGES, SIZE = 12, 4

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(self.PAGES, self.SIZE)
        self.leases: list[PageLease] = []
        self.held: dict[PageLease, list[int]] = {}  # model: the pages that each lease must hold
        self.stamps: dict[bytes, tuple[int, int]] = {}  # model: label -> (page, generation) when it was given
        self.labels = 0
        self.mirror: set[bytes] = set()  # the labels, by the changes that were told

    def holders(self, page: int) -> int:
        return sum(pages.count(page) for pages in self.held.values())

    def add(self, lease: PageLease) -> None:
        self.leases.append(lease)
        self.held[lease] = list(lease.pages)

    @rule(count=st.integers(0, 6))
    def lease(self, count: int) -> None:
        lease = self.pool.lease()
        enough = count <= self.pool.available
        assert self.pool.grow(lease, count) == enough
        assert len(lease.pages) == (count if enough else 0)
        assert all(self.holders(page) == 0 for page in lease.pages)
        self.add(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), count=st.integers(0, 6))
    def grow(self, data: st.DataObject, count: int) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        before = self.held[lease]
        self.pool.grow(lease, count)
        assert lease.pages[: len(before)] == before
        assert all(self.holders(page) == 0 for page in lease.pages[len(before) :])
        self.held[lease] = list(lease.pages)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def label(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        known = {page for page, _ in self.stamps.values()}
        for page in lease.pages:
            if page in known:
                continue
            self.labels += 1
            name = str(self.labels).encode()
            assert self.pool.label(page, name)
            self.stamps[name] = (page, self.pool.generation(page))

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        found = [page for page in map(self.pool.find, self.stamps) if page is not None]
        pages = data.draw(st.lists(st.sampled_from(found), unique=True)) if found else []
        lease, before = self.pool.lease(), self.pool.available
        freed = self.pool.reclaimable(pages)
        self.pool.share(lease, pages)
        assert self.pool.available == before - freed
        self.add(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        tokens = data.draw(st.integers(0, len(lease.pages) * self.SIZE))
        full, rest = divmod(tokens, self.SIZE)
        fork = self.pool.fork(lease, tokens)
        if fork is None:
            assert rest
            assert self.pool.available == 0
            return
        assert fork.lease.pages[:full] == lease.pages[:full]
        assert [source for source, _ in fork.copies] == lease.pages[full : full + bool(rest)]
        assert [target for _, target in fork.copies] == fork.lease.pages[full:]
        assert all(self.holders(target) == 0 for _, target in fork.copies)
        self.add(fork.lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        self.pool.release(lease)
        self.leases.remove(lease)
        del self.held[lease]

    @invariant()
    def balanced(self) -> None:
        self.pool.check()
        assert all(lease.pages == pages for lease, pages in self.held.items())
        used = {page for pages in self.held.values() for page in pages}
        assert self.pool.accounts().leased == len(used)

    @invariant()
    def a_label_names_the_content_that_it_was_given(self) -> None:
        for name, (page, generation) in list(self.stamps.items()):
            if self.pool.generation(page) == generation:
                assert self.pool.find(name) == page
            else:
                assert self.pool.find(name) is None
                del self.stamps[name]

    @rule()
    def tell(self) -> None:
        added, evicted = self.pool.changes.take()
        assert self.mirror.isdisjoint(added)
        assert self.mirror.issuperset(evicted)
        self.mirror |= set(added)
        self.mirror -= set(evicted)
        assert self.mirror == set(self.pool.labels)

    def teardown(self) -> None:
        for lease in self.leases:
            self.pool.release(lease)
        self.pool.check()
        assert self.pool.available == self.PAGES


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase
