"""What OpenAI's reply objects have in common: whole replies and stream chunks, made from deltas.

Knows JSON shapes; knows no node, no clock and no socket. A ``Reply`` is made for one HTTP request;
``chunk`` and ``whole`` differ only in how much they are given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pagewire.messages import PromptLogprobs
from pagewire.text.detokenize import TokenBytes
from router.feed import Delta
from router.prompts import Prompt

LEAST_LOGPROB = -9999.0  # what stands for minus infinity, which JSON cannot spell


class Vocabulary(TokenBytes, Protocol):
    def token_text(self, token: int) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What all objects of one reply say, and what the client wants to see of tokens. ``logprobs`` and
    ``prompt_top``, how many likely tokens stand beside each, are None where they were not asked for.
    """

    id: str
    model: str
    created: int
    vocabulary: Vocabulary
    prompts: list[Prompt]
    fingerprint: str | None = None
    logprobs: int | None = None
    prompt_top: int | None = None
    token_ids: bool = False


@dataclass(slots=True)
class Reply(ABC):
    """``prompt_logprobs`` are those of each prompt, once they are known."""

    object_whole: ClassVar[str]
    object_chunk: ClassVar[str]

    about: Envelope
    prompt_logprobs: dict[int, PromptLogprobs] = field(default_factory=dict, init=False)
    _frames: dict[bool, dict[str, Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        about = self.about
        for chunk in (False, True):
            self._frames[chunk] = {
                "id": about.id,
                "object": self.object_chunk if chunk else self.object_whole,
                "created": about.created,
                "model": about.model,
                "system_fingerprint": about.fingerprint,
            }

    def frame(self, choices: list[dict[str, Any]], *, chunk: bool) -> dict[str, Any]:
        return {**self._frames[chunk], "choices": choices}

    @property
    def wants_prompts(self) -> bool:
        return self.about.prompt_top is not None

    @property
    def only_text(self) -> bool:
        """True if a chunk that does not end its choice has a text in it, and else is like all others."""
        return self.about.logprobs is None and not self.about.token_ids

    @property
    def reasoning_tokens(self) -> int:
        """Of what was given so far."""
        return 0

    def around(self) -> dict[str, Any]:
        """What a whole reply says beside its choices."""
        return {}

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Choices of the chunks that a choice's stream begins with."""
        return []

    @abstractmethod
    def chunk(self, delta: Delta) -> dict[str, Any] | None:
        """The choice of a stream chunk; None if nothing of ``delta`` can be seen yet."""

    @abstractmethod
    def whole(self, delta: Delta) -> dict[str, Any]:
        """The choice of a whole reply; ``delta`` holds all of it."""

    def _worth(self, delta: Delta) -> bool:
        seen = delta.items and (self.about.logprobs is not None or self.about.token_ids)
        return bool(delta.text or delta.finish or seen)

    def _ending(self, delta: Delta) -> dict[str, Any]:
        ending: dict[str, Any] = {"finish_reason": delta.finish or None}
        if delta.stop_reason is not None:
            ending["stop_reason"] = delta.stop_reason
        if self.about.token_ids:
            ending["token_ids"] = [item.token for item in delta.items]
        return ending


def prompt_entries(about: Envelope, number: int, found: PromptLogprobs) -> list[dict[str, Any] | None]:
    """A prompt's log-probabilities in vLLM's shape: for each token but the first, it and the likeliest by id.

    A rank is the place among the likeliest; None where the token is not among those that were asked for.
    """
    entries: list[dict[str, Any] | None] = [None]
    tokens = about.prompts[number].tokens
    for token, value, top in zip(tokens[1:], found.logprobs, found.top, strict=True):
        likely = top[: about.prompt_top]
        ranks = {other: place for place, (other, _) in enumerate(likely, 1)}
        entries.append(
            {
                str(other): {
                    "logprob": finite(logprob),
                    "rank": ranks.get(other),
                    "decoded_token": about.vocabulary.token_text(other),
                }
                for other, logprob in {token: value, **dict(likely)}.items()
            }
        )
    return entries


def usage_of(prompt: int, completion: int, cached: int | None, reasoning: int = 0) -> dict[str, Any]:
    """``cached`` None: no node said how much it found in its cache."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": min(reasoning, completion)},
    }


def finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
