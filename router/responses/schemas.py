"""The body of ``/v1/responses``: names and JSON types.

Knows no chat. What is checked beyond types is checked where it is used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from router.schemas import MAX_MESSAGES, MAX_TOOLS, Body, Effort, Text, ToolName


class Item(Body):
    """A message, a call of a function, what it gave, or what the model thought: ``type`` says which."""

    type: Text | None = None
    role: Text | None = None
    content: Text | list[dict[str, Any]] | None = None
    call_id: Text | None = None
    name: Text | None = None
    arguments: Text | None = None
    output: Text | list[dict[str, Any]] | None = None


class FunctionTool(Body):
    type: Literal["function"]
    name: ToolName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(Body):
    type: Literal["function"]
    name: Text


class AllowedTools(Body):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(max_length=MAX_TOOLS)]


class TextOptions(Body):
    format: dict[str, Any] | None = None
    verbosity: Text | None = None


class ReasoningOptions(Body):
    effort: Effort | None = None
    summary: Text | None = None


class StreamOptions(Body):
    include_obfuscation: bool | None = None


class ResponsesBody(Body):
    """None everywhere means OpenAI's default, but for ``store``: nothing is stored here."""

    input: Text | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: Text | None = None
    instructions: Text | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None  # of tools that the server runs: there are none
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[Text] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: Text | None = None
    conversation: Text | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    user: Text | None = None
    # vLLM's
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Text | list[Text] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None
    priority: int | None = None
    cache_salt: Text | None = None
    timing: bool | None = None
