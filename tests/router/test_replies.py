from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pagewire.messages import PromptLogprobs, RequestId, TokenItem
from pagewire.text.tokenizer import Tokenizer
from router.chat_reply import ChatReply
from router.completion_reply import CompletionReply
from router.feed import Delta
from router.prompts import Prompt
from router.replies import LEAST_LOGPROB, Envelope, Vocabulary

NONE = -math.inf
ITEM = TokenItem(RequestId("r"), 0, 0, 0, 60, NONE, [(60, NONE), (61, -0.5)])
DELTA = Delta(0, "x", [ITEM], [0])


def about(vocabulary: Vocabulary, logprobs: int, prompt: Prompt) -> Envelope:
    return Envelope(id="i", model="m", created=1, vocabulary=vocabulary, logprobs=logprobs, prompts=[prompt])


def chat(tokenizer: Tokenizer) -> ChatReply:
    return ChatReply(about(tokenizer, 2, Prompt([5, 6])))


def completion(tokenizer: Tokenizer) -> CompletionReply:
    reply = CompletionReply(about(tokenizer, 1, Prompt([5, 6], "ab")), echo=True)
    reply.prompt_logprobs[0] = PromptLogprobs(RequestId("r"), 0, [NONE], [[(6, NONE)]])
    return reply


def numbers(value: Any) -> list[float]:
    """Every fraction in ``value``."""
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, list):
        return [found for part in value for found in numbers(part)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize("part", ["whole", "chunk"])
def test_a_token_that_cannot_be_has_a_number_that_json_can_spell(
    tokenizer: Tokenizer, make: Any, part: str
) -> None:
    choice = getattr(make(tokenizer), part)(DELTA)
    json.dumps(choice, allow_nan=False)
    assert LEAST_LOGPROB in numbers(choice)
    assert NONE not in numbers(choice)


def test_an_echoed_token_that_cannot_be(tokenizer: Tokenizer) -> None:
    (opening,) = completion(tokenizer).opening(0)
    assert opening["logprobs"]["token_logprobs"] == [None, LEAST_LOGPROB]
    assert list(opening["logprobs"]["top_logprobs"][1].values()) == [LEAST_LOGPROB]


class Marked:
    """A vocabulary that marks where a prompt begins, as Llama's does, and spaces as SentencePiece does."""

    special_ids = frozenset({0})
    strip_space = True
    texts = ("<s>", " one", " two", "\u00e9")

    def token_text(self, token: int) -> str:
        return self.texts[token]

    def token_bytes(self, token: int) -> bytes:
        return self.texts[token].encode()


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("one two", [0, 1, 2], [0, 0, 3]),  # <s> was added by the encoder
        ("<s> one two", [0, 1, 2], [0, 3, 7]),  # <s> was given as a token id, and is shown
        ("<s>two", [0, 0, 2], [0, 3, 3]),
        ("one\u00e9", [1, 3], [0, 3]),
    ],
)
def test_tokens_that_the_encoder_added_take_no_room(
    text: str, tokens: list[int], expected: list[int]
) -> None:
    reply = CompletionReply(about(Marked(), 0, Prompt(tokens, text)), echo=True)
    count = len(tokens) - 1
    reply.prompt_logprobs[0] = PromptLogprobs(RequestId("r"), 0, [-1.0] * count, [[]] * count)
    assert reply.opening(0)[0]["logprobs"]["text_offset"] == expected
