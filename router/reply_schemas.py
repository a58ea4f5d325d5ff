"""Replies as the OpenAPI page describes them. What is sent is made elsewhere; tests hold the two together.

Knows shapes; fills none.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorBody(Shape):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Shape):
    error: ErrorBody


class PromptDetails(Shape):
    cached_tokens: int


class CompletionDetails(Shape):
    reasoning_tokens: int


class Usage(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None
    completion_tokens_details: CompletionDetails


class FunctionCall(Shape):
    name: str
    arguments: str


class ToolCall(Shape):
    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(Shape):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Any]
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Likely(Shape):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Likely):
    top_logprobs: list[Likely]


class ChatLogprobs(Shape):
    content: list[TokenLogprob]
    refusal: None


class PromptToken(Shape):
    logprob: float
    rank: int | None
    decoded_token: str


class Choice(Shape):
    index: int
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChatChoice(Choice):
    message: ChatMessage
    logprobs: ChatLogprobs | None


class TextLogprobs(Shape):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Choice):
    text: str
    logprobs: TextLogprobs | None
    prompt_logprobs: list[dict[str, PromptToken] | None] | None = None


class Whole(Shape):
    id: str
    created: int
    model: str
    system_fingerprint: str | None
    usage: Usage
    timing: Any = None


class ChatCompletion(Whole):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_logprobs: list[dict[str, PromptToken] | None] | None = None


class Completion(Whole):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class Response(BaseModel):
    """OpenAI's object; the items of ``output`` are messages, calls of functions, and reasoning."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any]
    incomplete_details: dict[str, Any] | None
    tools: list[dict[str, Any]]


class Model(Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int | None


class Models(Shape):
    object: Literal["list"]
    data: list[Model]


class Tokens(Shape):
    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class Text(Shape):
    prompt: str
