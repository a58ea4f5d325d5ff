"""Replies of ``/v1/completions``: text, perhaps with the prompt before it.

Knows OpenAI's shapes; knows no chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pagewire.text.detokenize import Detokenizer
from router.feed import Delta
from router.prompts import Prompt
from router.replies import Reply, Vocabulary, finite, prompt_entries


@dataclass(slots=True)
class CompletionReply(Reply):
    """``n`` choices of each prompt. With ``echo`` a choice's text begins with its prompt."""

    object_whole: ClassVar[str] = "text_completion"
    object_chunk: ClassVar[str] = "text_completion"

    n: int = 1
    echo: bool = False

    @property
    def wants_prompts(self) -> bool:
        return self.about.prompt_top is not None or (self.echo and self.about.logprobs is not None)

    def opening(self, index: int) -> list[dict[str, Any]]:
        if not self.echo:
            return []
        text, logprobs = self._prompt(index)
        return [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}]

    def chunk(self, delta: Delta) -> dict[str, Any] | None:
        if not self._worth(delta):
            return None
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
        choice = {
            "index": delta.index,
            "text": text + delta.text,
            "logprobs": logprobs or before,
            **self._ending(delta),
        }
        if self.about.prompt_top is not None:
            number = delta.index // self.n
            found = self.prompt_logprobs[number]
            choice["prompt_logprobs"] = prompt_entries(self.about, number, found)
        return choice

    def _prompt(self, index: int) -> tuple[str, dict[str, Any] | None]:
        """The echoed prompt: its text, and its tokens' log-probabilities. The first token has none."""
        number = index // self.n
        prompt = self.about.prompts[number]
        if self.about.logprobs is None:
            return prompt.text, None
        found = self.prompt_logprobs[number]
        offsets = _offsets(prompt, self.about.vocabulary)
        return prompt.text, self._columns(prompt.tokens, [None, *found.logprobs], [None, *found.top], offsets)

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if self.about.logprobs is None or not delta.items:
            return None
        items = delta.items
        start = len(self.about.prompts[delta.index // self.n].text) if self.echo else 0
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
        texts = [self.about.vocabulary.token_text(token) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [finite(value) for value in values],
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
        likely = top[: self.about.logprobs]
        best = {self.about.vocabulary.token_text(token): finite(logprob) for token, logprob in likely}
        best.setdefault(chosen, finite(value))
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
