"""A running request as the engine sees it: token ids, a lease on pages, and how much of its KV is present.

Knows no text, no role and no tensor. Prefix hit, chunked prefill, preemption, a handoff that arrived and a
migration are all the same thing here: a value of ``num_computed``. A token that the device has drawn and the
host has not seen yet stands in ``tokens`` as a promise, a negative number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pagewire.engine.constraint import Matcher
from pagewire.engine.pages import PageLease
from pagewire.messages import PrefillRequest, RequestId
from pagewire.sampling import SamplingParams


@dataclass(slots=True, eq=False)
class Sequence:
    """One continuation in the making, or several that have not branched yet.

    ``choices`` has more than one entry only until the first token is sampled: then the engine branches the
    sequence, and each branch shares the full pages of the prompt.
    """

    request: RequestId
    attempt: int
    choices: list[int]
    tokens: list[int]  # the prompt, then the output
    num_prompt: int
    sampling: SamplingParams
    seed: int
    max_len: int  # len(tokens) at which it ends for length
    budget: int | None = None  # tokens that this engine may sample for it; None: until it ends
    cache_salt: str = ""
    lease: PageLease | None = None
    num_computed: int = 0  # leading tokens whose KV is in the lease's pages
    prefix_hit: int = 0  # of those, how many were found in the prefix cache when it was first scheduled
    page_hashes: list[bytes] = field(default_factory=list)  # hash chain over the full pages hashed so far
    preemptions: int = 0
    skipped: int = 0  # how often a shorter one that came later was started before it
    matcher: Matcher | None = None  # behind the last token, once it was asked for
    ended: bool = False  # finished or aborted: what is still drawn for it is nobody's

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.num_computed


def promise(row: int) -> int:
    """In place of a token: the one that the step before draws in its ``row``."""
    return -1 - row


def sequence_of(request: PrefillRequest, max_model_len: int, budget: int | None = None) -> Sequence:
    """What an engine is to compute for ``request``; each node that takes part makes its own."""
    return Sequence(
        request.request,
        request.attempt,
        list(request.choices),
        list(request.tokens),
        request.num_prompt,
        request.sampling,
        request.seed,
        end_of(request.num_prompt, request.sampling, max_model_len),
        budget,
        request.cache_salt,
    )


def end_of(num_prompt: int, sampling: SamplingParams, max_model_len: int) -> int:
    """Length in tokens at which a sequence ends for length."""
    if sampling.max_tokens is None:
        return max_model_len
    return min(num_prompt + sampling.max_tokens, max_model_len)
