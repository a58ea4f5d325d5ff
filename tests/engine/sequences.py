"""Sequences and schedulers in a line, for tests without a model."""

from __future__ import annotations

from pagewire.config import EngineConfig
from pagewire.engine.pages import PagePool
from pagewire.engine.prefix_cache import PrefixCache
from pagewire.engine.scheduler import Scheduler
from pagewire.engine.sequence import Sequence
from pagewire.messages import RequestId
from pagewire.sampling import SamplingParams


def sequence(
    tokens: list[int], max_len: int = 0, *, salt: str = "", prompt_logprobs: int | None = None
) -> Sequence:
    sampling = SamplingParams(prompt_logprobs=prompt_logprobs)
    max_len = max_len or len(tokens) + 1
    return Sequence(RequestId("r"), 0, [0], tokens, len(tokens), sampling, 0, max_len, cache_salt=salt)


def scheduler(
    num_pages: int = 16,
    page_size: int = 4,
    budget: int = 16,
    seqs: int = 8,
    caching: bool = True,
    mixed: int | None = None,
) -> Scheduler:
    config = EngineConfig(
        max_model_len=num_pages * page_size,
        num_pages=num_pages,
        page_size=page_size,
        max_batch_tokens=budget,
        max_mixed_tokens=mixed,
        max_num_seqs=seqs,
        prefix_caching=caching,
    )
    pool = PagePool(num_pages, page_size)
    return Scheduler(config, pool, PrefixCache(pool, enabled=caching))


def arrive(engine: Scheduler, seq: Sequence) -> Sequence:
    """Give ``seq`` pages for all its tokens, the last of which is not computed, as a handoff does."""
    seq.lease = engine.pool.lease()
    assert engine.pool.grow(seq.lease, engine.pool.pages_for(len(seq.tokens) - 1))
    seq.num_computed = len(seq.tokens) - 1
    engine.admit(seq)
    return seq
