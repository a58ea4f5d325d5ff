"""Log-probabilities of prompts, gathered over the chunks in which a prompt is computed.

Knows which rows of a step's logits belong to prompts; the arithmetic is the sampler's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pagewire.engine.sampler import score_prompt
from pagewire.engine.scheduler import Work
from pagewire.engine.sequence import Sequence

if TYPE_CHECKING:
    from torch import Tensor


class PromptLogprobs(NamedTuple):
    """For each prompt token from position 1 on: its log-probability, and the most likely ones with theirs."""

    logprobs: list[float]
    top: list[list[tuple[int, float]]]


class PromptScorer:
    """Splits the logits of a step into rows to sample from and rows to score prompts with."""

    def __init__(self) -> None:
        self._parts: dict[Sequence, PromptLogprobs] = {}

    def take(self, work: list[Work], logits: Tensor, done: list[tuple[Sequence, PromptLogprobs]]) -> Tensor:
        """Score the prompt rows of ``logits`` [R, V]; return the rows to sample from, one a sampling work.

        Appends to ``done`` each sequence whose prompt is now scored to its end.
        """
        if all(w.seq.sampling.prompt_logprobs is None for w in work):
            return logits
        keep: list[int] = []
        row = 0
        for w in work:
            rows = w.logit_rows
            if w.scores_prompt:
                self._score(w, logits[row : row + rows])
                if w.samples:
                    done.append((w.seq, self._parts.pop(w.seq)))
            if w.samples:
                keep.append(row + rows - 1)
            row += rows
        return logits[keep]

    def drop(self, seq: Sequence) -> None:
        self._parts.pop(seq, None)

    def _score(self, work: Work, rows: Tensor) -> None:
        """Rows [start, end) predict the tokens at [start + 1, end + 1), as far as the prompt goes."""
        if work.start == 0:
            self._parts[work.seq] = PromptLogprobs([], [])
        following = work.seq.tokens[work.start + 1 : min(work.end + 1, work.seq.num_prompt)]
        k = work.seq.sampling.prompt_logprobs
        assert k is not None
        logprobs, top = score_prompt(rows[: len(following)], following, k)
        self._parts[work.seq].logprobs.extend(logprobs)
        self._parts[work.seq].top.extend(top)
