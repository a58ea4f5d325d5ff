"""From what clients send to token ids: conversations through the model's template, texts, and token ids.

Knows bodies and text; knows no sampling and no reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pagewire.errors import RequestError
from pagewire.text.chat import render, shaped
from pagewire.text.output.tool_prompt import told
from router.front import Front
from router.schemas import ChatBody, CompletionBody, Message, TokenizeBody
from router.tool_use import ToolUse

# What a request may tell the model's template, beside its messages and tools.
TEMPLATE_KWARGS = frozenset({"enable_thinking", "thinking", "reasoning_effort", "thinking_budget"})
MAX_KWARG = 64  # characters of a text among them


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the reply needs it. ``text`` is empty unless it is echoed."""

    tokens: list[int]
    text: str = ""


def render_chat(front: Front, body: ChatBody | TokenizeBody, messages: list[Message], use: ToolUse) -> str:
    """The text of a conversation. Raises RequestError."""
    more = bool(body.continue_final_message)
    talk, tools = shaped([message_of(message) for message in messages]), list(use.tools)
    if not front.dialect.shown and front.dialect.calls is not None:
        talk, tools = told(talk, tools, front.dialect.calls), []
    return render(
        front.tokenizer,
        talk,
        add_generation_prompt=not more if body.add_generation_prompt is None else body.add_generation_prompt,
        continue_final_message=more,
        tools=tools or None,
        template_kwargs=template_kwargs(body),
    )


def template_kwargs(body: ChatBody | TokenizeBody) -> dict[str, bool | int | float | str]:
    """Variables of the template that a client may set: plain values, known names. Raises RequestError."""
    given = body.chat_template_kwargs or {}
    for name, value in given.items():
        if name not in TEMPLATE_KWARGS:
            raise RequestError(
                f"chat_template_kwargs may hold {', '.join(sorted(TEMPLATE_KWARGS))}",
                param="chat_template_kwargs",
            )
        if isinstance(value, str) and len(value) > MAX_KWARG:
            raise RequestError(f"{name} is too long", param="chat_template_kwargs")
    effort = body.reasoning_effort if isinstance(body, ChatBody) else None
    if effort is None:
        return given
    asked: dict[str, bool | int | float | str] = {"reasoning_effort": effort}
    if effort == "none":
        asked |= {"enable_thinking": False, "thinking": False}
    return asked | given


def message_of(message: Message) -> dict[str, Any]:
    """A message for the template, which knows no developers, and one name for what the model thought."""
    plain = message.model_dump(exclude_none=True)
    if message.role == "developer":
        plain["role"] = "system"
    thought = plain.pop("reasoning", None)
    if isinstance(thought, str):
        plain.setdefault("reasoning_content", thought)
    return plain


def prompts_of(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """OpenAI's four forms as a list of texts or token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise RequestError("the prompt is empty", param="prompt")
    if isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


async def prompt_of(front: Front, body: CompletionBody, given: str | list[int]) -> Prompt:
    if isinstance(given, str):
        special = True if body.add_special_tokens is None else body.add_special_tokens
        return Prompt(checked(front, await front.encode(given, special=special), "prompt"), given)
    tokens = checked(front, given, "prompt")
    return Prompt(tokens, front.tokenizer.decode(tokens, skip_special_tokens=False) if body.echo else "")


def checked(front: Front, tokens: list[int], field: str) -> list[int]:
    if not tokens:
        raise RequestError("the prompt is empty", param=field)
    if not all(0 <= token < front.tokenizer.vocab_size for token in tokens):
        raise RequestError(f"token ids are whole numbers below {front.tokenizer.vocab_size}", param=field)
    return tokens
