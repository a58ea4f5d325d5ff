"""What is handed to the router to be computed: resolved, and without a word of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pagewire.sampling import SamplingParams
from router.finished import NOBODY, About


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """``prompts``, each with ``sampling.n`` choices. ``request`` is the id of the first.

    ``timeout_s``: the client's own, if it is less than ours. ``whole``: the reader collects all before it
    answers. ``counts``, ``timing``: whether the reply needs what the nodes report. ``shown``: special tokens
    that stay in the text. ``about``: for logs.
    """

    request: str
    prompts: Sequence[list[int]]
    sampling: SamplingParams
    priority: int = 0
    timeout_s: float | None = None
    cache_salt: str = ""
    whole: bool = False
    counts: bool = True
    timing: bool = False
    shown: frozenset[int] = frozenset()
    about: About = NOBODY
