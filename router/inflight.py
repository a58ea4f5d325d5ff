"""A request in the router's hands: its dispatch, the text of its choices, and what the nodes told about it.

Turns accepted tokens into deltas for the client. Knows text and times; knows no mailbox and no HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pagewire.messages import PromptLogprobs, Spans, TokenItem
from pagewire.sampling import SamplingParams
from pagewire.text.stream import TextStream
from pagewire.timeline import Timeline
from router.actions import ChoiceEnd
from router.dispatch import Dispatch
from router.feed import Delta
from router.finished import NOBODY, About


@dataclass(slots=True, eq=False)
class Choice:
    text: TextStream
    tokens: int = 0
    last_at: float | None = None
    finish: str = ""
    stop_reason: str | int | None = None


@dataclass(slots=True, eq=False)
class Inflight:
    """``first_index`` is the number of choice 0 in the reply. Times are in the caller's seconds."""

    dispatch: Dispatch
    choices: list[Choice]
    first_index: int
    arrived: float
    wants_counts: bool
    wants_timing: bool
    about: About = NOBODY
    timeline: Timeline = field(default_factory=Timeline)
    prompt_logprobs: PromptLogprobs | None = None
    sent_at: float | None = None  # when its turn came; None while it waits
    first_at: float | None = None
    ended_at: float | None = None
    withheld: list[Delta] = field(default_factory=list)

    @property
    def sampling(self) -> SamplingParams:
        return self.dispatch.job.sampling

    @property
    def prompt_tokens(self) -> int:
        return len(self.dispatch.job.tokens)

    @property
    def cached_tokens(self) -> int | None:
        found = self.timeline.cached_tokens
        return None if found is None else min(found, self.prompt_tokens)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)

    def token(self, now: float, item: TokenItem) -> list[Delta]:
        """A token was accepted."""
        choice = self.choices[item.choice]
        if choice.finish:
            return []  # a stop string came before it
        if self.first_at is None:
            self.first_at = now
        choice.tokens += 1
        choice.last_at = now
        text, stopped, offset = choice.text.push(
            item.token, last=bool(item.finish), hidden=item.stop_token >= 0
        )
        if stopped is not None:
            choice.finish, choice.stop_reason = "stop", stopped
        return self._release([Delta(self.first_index + item.choice, text, [item], [offset])])

    def choice_end(self, end: ChoiceEnd) -> list[Delta]:
        """A choice is over. A stop string found before outranks what the nodes say."""
        choice = self.choices[end.choice]
        if end.reason in ("abort", "error"):
            return []
        if not choice.finish:
            choice.finish = end.reason
            if end.stop_token in self.sampling.stop_token_ids:
                choice.stop_reason = end.stop_token
        index = self.first_index + end.choice
        return self._release([Delta(index, finish=choice.finish, stop_reason=choice.stop_reason)])

    def spans(self, spans: Spans) -> None:
        if self._ours(spans.attempt, spans.node):
            self.timeline.add(spans)

    def prompt_read(self, message: PromptLogprobs, node: str) -> list[Delta]:
        """The prompt's log-probabilities have come; the first count. Gives the deltas that waited for
        them."""
        known = self.prompt_logprobs is not None or self.sampling.prompt_logprobs is None
        length = self.prompt_tokens - 1
        right = len(message.logprobs) == length and len(message.top) == length
        if known or not right or not self._ours(message.attempt, node):
            return []
        self.prompt_logprobs = message
        self.dispatch.prompt_read = True
        return self._release([])

    @property
    def prompt_missing(self) -> bool:
        return self.sampling.prompt_logprobs is not None and self.prompt_logprobs is None

    @property
    def settled(self) -> bool:
        """True if nothing is still to come that the reply needs."""
        if self.prompt_missing:
            return False
        if self.wants_timing:
            last = len(self.dispatch.pairs) - 1
            return self.timeline.complete(last, decoded=any(c.tokens > 1 for c in self.choices))
        return not self.wants_counts or self.timeline.cached_tokens is not None

    def timing(self, now: float) -> dict[str, Any]:
        queued = ((self.sent_at or self.ended_at or now) - self.arrived) + self.dispatch.waited
        return self.timeline.timing(
            waited_ms=queued * 1000,
            ttft_ms=None if self.first_at is None else (self.first_at - self.arrived) * 1000,
            total_ms=((self.ended_at or now) - self.arrived) * 1000,
            attempts=len(self.dispatch.pairs),
        )

    def _ours(self, attempt: int, node: str) -> bool:
        pair = self.dispatch.pairs.get(attempt)
        return pair is not None and node in (pair.prefill.node, pair.decode.node)

    def _release(self, deltas: list[Delta]) -> list[Delta]:
        """Deltas that may go out now: none before the prompt's log-probabilities, where they are wanted."""
        if self.prompt_missing:
            self.withheld += deltas
            return []
        if self.withheld:
            deltas, self.withheld = self.withheld + deltas, []
        return deltas
