"""A request that is ready to be computed: what is wanted, and what the client wants to see of it.

Knows a body's fields; knows no reply and no node.
"""

from __future__ import annotations

from dataclasses import dataclass

from pagewire.sampling import SamplingParams
from router.schemas import GenerationBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be computed, and what the client wants to see. ``marks`` are special tokens that the reply's
    parser must see in the text; ``special`` shows all of them.
    """

    prompts: list[list[int]]
    sampling: SamplingParams
    stream: bool = False
    usage: bool = False
    running_usage: bool = False
    timing: bool = False
    cache_salt: str = ""
    priority: int = 0
    marks: frozenset[int] = frozenset()
    special: bool = False
    mute: bool = False  # nothing of what is generated is shown

    @staticmethod
    def of(
        body: GenerationBody,
        prompts: list[list[int]],
        sampling: SamplingParams,
        *,
        marks: frozenset[int] = frozenset(),
        mute: bool = False,
    ) -> Asked:
        options = body.stream_options
        usage = bool(options and options.include_usage)
        return Asked(
            prompts=prompts,
            sampling=sampling,
            stream=bool(body.stream),
            usage=usage,
            running_usage=usage and bool(options and options.continuous_usage_stats),
            timing=bool(body.timing),
            cache_salt=body.cache_salt or "",
            priority=body.priority or 0,
            marks=marks,
            special=body.skip_special_tokens is False,
            mute=mute,
        )
