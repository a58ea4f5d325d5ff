"""What a submission becomes: for each prompt a job, its dispatch, and the text of each choice.

Knows seeds, ids and deadlines; knows no node and no queue.
"""

from __future__ import annotations

import secrets

from pagewire.messages import RequestId
from pagewire.priority import clamped
from pagewire.text.stream import TextStream
from pagewire.text.tokenizer import Tokenizer
from router.actions import Job
from router.dispatch import Choose, Dispatch
from router.inflight import Choice, Inflight
from router.options import RouterOptions
from router.submission import Submission


def members_of(
    given: Submission, now: float, options: RouterOptions, tokenizer: Tokenizer, choose: Choose
) -> list[Inflight]:
    """One for each prompt, in their order, that came ``now``."""
    sampling, limit_s = given.sampling, options.request_timeout_s
    seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
    members = []
    for number, tokens in enumerate(given.prompts):
        job = Job(
            request=RequestId(given.request if number == 0 else secrets.token_hex(16)),
            tokens=tokens,
            sampling=sampling,
            seed=seed,
            cache_salt=given.cache_salt,
            deadline=now + (limit_s if given.timeout_s is None else min(given.timeout_s, limit_s)),
            recovery_s=options.recovery_s,
            priority=clamped(given.priority),
        )
        texts = [TextStream(tokenizer, sampling, shown=given.shown) for _ in range(sampling.n)]
        members.append(
            Inflight(
                Dispatch(job, choose),
                [Choice(text) for text in texts],
                number * sampling.n,
                now,
                given.counts,
                given.timing,
                given.about,
            )
        )
    return members
