"""OpenAI's reply objects from deltas: whole replies and stream chunks, for chat and for completions.

Knows JSON shapes; knows no node, no clock and no socket. A ``Reply`` is made for one HTTP request;
``chunk`` and ``whole`` differ only in how much they are given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pagewire.messages import PromptLogprobs, TokenItem
from pagewire.text.detokenize import Detokenizer, TokenBytes
from router.feed import Delta

LEAST_LOGPROB = -9999.0  # what stands for minus infinity, which JSON cannot spell


class Vocabulary(TokenBytes, Protocol):
    def token_text(self, token: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the reply needs it. ``text`` is empty unless it is echoed."""

    tokens: list[int]
    text: str = ""


@dataclass(slots=True, kw_only=True)
class Reply(ABC):
    """What all objects of one reply share. ``logprobs`` None: not asked for."""

    id: str
    model: str
    created: int
    vocabulary: Vocabulary
    logprobs: int | None = None
    token_ids: bool = False

    object_whole: str = ""
    object_chunk: str = ""

    def frame(self, choices: list[dict[str, Any]], *, chunk: bool) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.object_chunk if chunk else self.object_whole,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Choices of the chunks that a choice's stream begins with."""
        return []

    @abstractmethod
    def chunk(self, delta: Delta) -> dict[str, Any]:
        """The choice of a stream chunk."""

    @abstractmethod
    def whole(self, delta: Delta) -> dict[str, Any]:
        """The choice of a whole reply; ``delta`` holds all of it."""

    def _ending(self, delta: Delta) -> dict[str, Any]:
        ending: dict[str, Any] = {"finish_reason": delta.finish or None}
        if delta.stop_reason is not None:
            ending["stop_reason"] = delta.stop_reason
        if self.token_ids:
            ending["token_ids"] = [item.token for item in delta.items]
        return ending


@dataclass(slots=True, kw_only=True)
class ChatReply(Reply):
    object_whole: str = "chat.completion"
    object_chunk: str = "chat.completion.chunk"

    def opening(self, index: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        content = {"content": delta.text} if delta.text or delta.items else {}
        return {
            "index": delta.index,
            "delta": content,
            "logprobs": self._logprobs(delta.items),
            **self._ending(delta),
        }

    def whole(self, delta: Delta) -> dict[str, Any]:
        return {
            "index": delta.index,
            "message": {"role": "assistant", "content": delta.text, "refusal": None},
            "logprobs": self._logprobs(delta.items),
            **self._ending(delta),
        }

    def _logprobs(self, items: Sequence[TokenItem]) -> dict[str, Any] | None:
        if self.logprobs is None or not items:
            return None
        content = []
        for item in items:
            top = [self._entry(token, value) for token, value in item.top[: self.logprobs]]
            content.append({**self._entry(item.token, item.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": self.vocabulary.token_text(token),
            "logprob": _finite(logprob),
            "bytes": list(self.vocabulary.token_bytes(token)),
        }


@dataclass(slots=True, kw_only=True)
class CompletionReply(Reply):
    """``n`` choices of each of ``prompts``. With ``echo`` a choice's text begins with its prompt."""

    n: int
    prompts: list[Prompt]
    echo: bool = False
    object_whole: str = "text_completion"
    object_chunk: str = "text_completion"
    prompt_logprobs: dict[int, PromptLogprobs] = field(default_factory=dict)  # by prompt, once known

    def opening(self, index: int) -> list[dict[str, Any]]:
        if not self.echo:
            return []
        text, logprobs = self._prompt(index)
        return [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        return {
            "index": delta.index,
            "text": delta.text,
            "logprobs": self._logprobs(delta),
            **self._ending(delta),
        }

    def whole(self, delta: Delta) -> dict[str, Any]:
        text, before = self._prompt(delta.index) if self.echo else ("", None)
        logprobs = self._logprobs(delta)
        if before is not None and logprobs is not None:
            logprobs = {name: before[name] + logprobs[name] for name in logprobs}
        return {
            "index": delta.index,
            "text": text + delta.text,
            "logprobs": logprobs or before,
            **self._ending(delta),
        }

    def _prompt(self, index: int) -> tuple[str, dict[str, Any] | None]:
        """The echoed prompt: its text, and its tokens' log-probabilities. The first token has none."""
        number = index // self.n
        prompt = self.prompts[number]
        if self.logprobs is None:
            return prompt.text, None
        found = self.prompt_logprobs[number]
        offsets = _offsets(prompt, self.vocabulary)
        return prompt.text, self._columns(prompt.tokens, [None, *found.logprobs], [None, *found.top], offsets)

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if self.logprobs is None or not delta.items:
            return None
        items = delta.items
        start = len(self.prompts[delta.index // self.n].text) if self.echo else 0
        return self._columns(
            [item.token for item in items],
            [item.logprob for item in items],
            [item.top for item in items],
            [start + offset for offset in delta.offsets],
        )

    def _columns(
        self,
        tokens: Sequence[int],
        values: Sequence[float | None],
        tops: Sequence[list[tuple[int, float]] | None],
        offsets: list[int],
    ) -> dict[str, Any]:
        """OpenAI's parallel lists. ``text_offset`` counts characters of the choice's ``text``."""
        texts = [self.vocabulary.token_text(token) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [_finite(value) for value in values],
            "top_logprobs": [
                self._top(text, value, top) for text, value, top in zip(texts, values, tops, strict=True)
            ],
            "text_offset": offsets,
        }

    def _top(
        self, chosen: str, value: float | None, top: list[tuple[int, float]] | None
    ) -> dict[str, float | None] | None:
        """The most likely tokens by text, and the chosen one in any case."""
        if top is None:
            return None
        best = {
            self.vocabulary.token_text(token): _finite(logprob) for token, logprob in top[: self.logprobs]
        }
        best.setdefault(chosen, _finite(value))
        return best


def _offsets(prompt: Prompt, vocabulary: Vocabulary) -> list[int]:
    """Where each token's text begins in the prompt's; the parts of one character share its offset.

    A special token that the encoder added is in the tokens and not in the text: it takes no room.
    """
    detokenizer = Detokenizer(vocabulary, skip_special_tokens=False)
    offsets, at = [], 0
    for token in prompt.tokens:
        offsets.append(min(at, len(prompt.text)))
        if token not in vocabulary.special_ids or prompt.text.startswith(vocabulary.token_text(token), at):
            at += len(detokenizer.push(token))
    return offsets


def usage_of(prompt: int, completion: int, cached: int | None) -> dict[str, Any]:
    """``cached`` None: no node said how much it found in its cache."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
    }


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
