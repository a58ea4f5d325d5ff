from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import sequence

from pagewire.engine.pages import PagePool
from pagewire.engine.prefix_cache import CacheStats, PrefixCache
from pagewire.engine.sequence import Sequence

PROMPT = list(range(100, 118))  # four full pages of 4 and a partial one


def computed(cache: PrefixCache, tokens: list[int], salt: str = "") -> Sequence:
    """A sequence whose tokens are all computed and published."""
    seq = sequence(list(tokens), salt=salt)
    seq.lease = cache.pool.lease()
    assert cache.pool.grow(seq.lease, cache.pool.pages_for(len(tokens)))
    seq.num_computed = len(tokens)
    cache.publish(seq)
    return seq


def cache_of(num_pages: int = 16, enabled: bool = True) -> PrefixCache:
    return PrefixCache(PagePool(num_pages, 4), enabled)


def release(cache: PrefixCache, seq: Sequence) -> None:
    assert seq.lease is not None
    cache.pool.release(seq.lease)


def pages(seq: Sequence) -> list[int]:
    assert seq.lease is not None
    return seq.lease.pages


def test_full_pages_of_a_running_sequence_are_found() -> None:
    cache = cache_of()
    seq = computed(cache, PROMPT)
    assert cache.match(PROMPT, "", []) == pages(seq)[:4]


def test_full_pages_of_a_finished_sequence_are_found() -> None:
    cache = cache_of()
    seq = computed(cache, PROMPT)
    release(cache, seq)
    assert cache.match(PROMPT, "", []) == pages(seq)[:4]


def test_one_token_is_always_left_to_compute() -> None:
    cache = cache_of()
    seq = computed(cache, PROMPT[:16])
    assert cache.match(PROMPT[:16], "", []) == pages(seq)[:3]
    assert cache.match(PROMPT[:17], "", []) == pages(seq)[:4]


def test_a_match_ends_where_the_tokens_differ() -> None:
    cache = cache_of()
    seq = computed(cache, PROMPT)
    assert cache.match([*PROMPT[:9], 7, *PROMPT[10:]], "", []) == pages(seq)[:2]


def test_a_page_is_found_only_behind_the_same_tokens() -> None:
    cache = cache_of()
    computed(cache, PROMPT)
    assert cache.match([1, 2, 3, 4, *PROMPT[4:]], "", []) == []


def test_another_salt_finds_nothing() -> None:
    cache = cache_of()
    computed(cache, PROMPT, salt="alice")
    assert cache.match(PROMPT, "bob", []) == []


def test_a_disabled_cache_finds_nothing() -> None:
    cache = cache_of(enabled=False)
    seq = computed(cache, PROMPT)
    assert cache.match(PROMPT, "", []) == []
    release(cache, seq)
    assert cache.pool.accounts().cached == 0


def test_an_evicted_page_is_found_no_more() -> None:
    cache = cache_of(num_pages=5)
    seq = computed(cache, PROMPT)
    release(cache, seq)
    assert cache.pool.grow(cache.pool.lease(), 2)  # the free page, and the tail
    assert cache.match(PROMPT, "", []) == pages(seq)[:3]


def test_only_computed_pages_are_published() -> None:
    cache = cache_of()
    seq = sequence(list(PROMPT))
    seq.lease = cache.pool.lease()
    assert cache.pool.grow(seq.lease, 5)
    seq.num_computed = 11
    cache.publish(seq)
    assert cache.match(PROMPT, "", []) == pages(seq)[:2]


def test_a_duplicate_stays_private() -> None:
    cache = cache_of()
    first, second = computed(cache, PROMPT), computed(cache, PROMPT)
    assert cache.match(PROMPT, "", []) == pages(first)[:4]
    release(cache, second)
    assert cache.pool.accounts().cached == 0


def test_counters_add_up() -> None:
    cache = cache_of()
    cache.count(10, 4)
    cache.count(5, 0)
    assert cache.stats == CacheStats(queried=15, hit=4)


@settings(deadline=None, max_examples=100)
@given(prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=20), min_size=1, max_size=6))
def test_a_match_is_the_longest_common_run_of_full_pages(prompts: list[list[int]]) -> None:
    cache = cache_of(num_pages=64)
    for prompt in prompts[:-1]:
        computed(cache, prompt)
    last = prompts[-1]
    want = 0
    for other in prompts[:-1]:
        common = next((i for i, (a, b) in enumerate(zip(last, other, strict=False)) if a != b), None)
        common = min(len(last), len(other)) if common is None else common
        want = max(want, min(common // 4, (len(last) - 1) // 4))
    assert len(cache.match(last, "", [])) == want
