"""The bodies that clients may send: OpenAI's fields, and vLLM's where OpenAI has none.

Knows field names and JSON types; ranges are checked by ``SamplingParams``. Unknown fields are ignored, but
those that would change the meaning of the answer and are not served are refused by name
(``router.unsupported``).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_STRING = 1 << 20
MAX_MESSAGES = 1024
MAX_PROMPTS = 64  # prompts x n

Text = Annotated[str, StringConstraints(max_length=MAX_STRING)]
TokenIds = list[int]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    @property
    def unknown(self) -> dict[str, Any]:
        """Fields that this model does not define, as they came."""
        return self.model_extra or {}


class StreamOptions(_Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationBody(_Body):
    """What chat and completions share. None everywhere means OpenAI's default."""

    model: Text | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop: Text | list[Text] | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: Text | None = None
    return_token_ids: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: Text | dict[str, Any] | None = None
    guided_regex: Text | None = None
    guided_choice: list[Text] | None = None
    guided_grammar: Text | None = None
    timing: bool | None = None


class CompletionBody(GenerationBody):
    prompt: Text | list[Text] | TokenIds | list[TokenIds]
    echo: bool | None = None
    logprobs: int | None = None
    add_special_tokens: bool | None = None


class Message(_Body):
    """``content`` is text, or parts of which each is text."""

    role: Text
    content: Text | list[dict[str, Any]] | None = None
    name: Text | None = None


class ChatBody(GenerationBody):
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None


class TokenizeBody(_Body):
    model: Text | None = None
    prompt: Text | None = None
    messages: list[Message] | None = Field(None, max_length=MAX_MESSAGES)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(_Body):
    model: Text | None = None
    tokens: TokenIds
