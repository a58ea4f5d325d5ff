"""The bodies that clients may send: OpenAI's fields, and vLLM's where OpenAI has none.

Knows field names and JSON types; ranges are checked by ``SamplingParams``. Unknown fields are ignored, but
those that would change the meaning of the answer and are not served are refused by name
(``router.unsupported``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_STRING = 1 << 20
MAX_MESSAGES = 1024
MAX_PROMPTS = 64  # prompts x n
MAX_TOOLS = 64

Text = Annotated[str, StringConstraints(max_length=MAX_STRING)]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# One fault is enough: a million of them take seconds to list.
Texts = Annotated[list[Text], Field(fail_fast=True)]
TokenIds = Annotated[list[int], Field(fail_fast=True)]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    @property
    def unknown(self) -> dict[str, Any]:
        """Fields that this model does not define, as they came."""
        return self.model_extra or {}


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationBody(Body):
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
    stop: Text | Texts | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    priority: int | None = None
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
    prompt: Text | Texts | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]
    echo: bool | None = None
    logprobs: int | None = None
    add_special_tokens: bool | None = None


class Message(Body):
    """``content`` is text, or parts of which each is text. What else it has is for the chat template, such as
    ``tool_calls`` and ``reasoning_content``.
    """

    role: Text
    content: Text | Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    name: Text | None = None


class Function(Body):
    """``parameters`` is a JSON schema of an object; none means no arguments."""

    name: ToolName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: Text


class NamedTool(Body):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(max_length=MAX_TOOLS)]


class ToolSelection(Body):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | ToolSelection
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatBody(GenerationBody):
    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None


class TokenizeBody(Body):
    model: Text | None = None
    prompt: Text | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = Field(None, max_length=MAX_MESSAGES)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    model: Text | None = None
    tokens: TokenIds
