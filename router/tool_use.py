"""What a chat may call: its tools and ``tool_choice``, checked, and the grammar that holds a model to them.

Knows OpenAI's fields and the model's dialect; knows no prompt and no reply.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from pagewire.errors import RequestError
from pagewire.sampling import MAX_GRAMMAR_CHARS, Grammar, SamplingParams
from pagewire.text.output.dialect import Dialect
from pagewire.text.output.formats import forced
from pagewire.text.output.mixed import after_thinking, either
from router.schemas import ChatBody, NamedTool, Tool, ToolSelection

MAX_TOOL_CHARS = 16 << 10  # of one tool, as JSON


@dataclass(frozen=True, slots=True)
class ToolUse:
    """``tools`` are shown to the model; none: it is not asked to call any. ``forced``: it must call one of
    them. ``named``: the client chose which. ``limit`` is how many calls it may make; None: any number.
    """

    tools: tuple[dict[str, Any], ...] = ()
    forced: bool = False
    named: bool = False
    limit: int | None = None

    @property
    def functions(self) -> list[dict[str, Any]]:
        return [tool["function"] for tool in self.tools]


def tool_use(body: ChatBody, dialect: Dialect) -> ToolUse:
    """Raises RequestError with the name of the field at fault."""
    tools, choice = body.tools or [], body.tool_choice
    if not tools:
        if choice not in (None, "none", "auto"):
            raise RequestError("tool_choice needs tools", param="tool_choice")
        return ToolUse()
    shown = checked_tools(tools)
    if choice == "none":
        return ToolUse()
    if dialect.calls is None:
        raise RequestError("tools are not supported: this server was started without them", param="tools")
    limit = 1 if body.parallel_tool_calls is False else None
    if isinstance(choice, NamedTool):
        return ToolUse(_chosen(shown, [choice]), forced=True, named=True, limit=1)
    if isinstance(choice, ToolSelection):
        allowed = choice.allowed_tools
        return ToolUse(_chosen(shown, allowed.tools), forced=allowed.mode == "required", limit=limit)
    return ToolUse(tuple(shown), forced=choice == "required", limit=limit)


def checked_tools(tools: list[Tool]) -> list[dict[str, Any]]:
    """As a template takes them."""
    shown = [tool.model_dump(exclude_none=True) for tool in tools]
    names = [tool.function.name for tool in tools]
    for at, tool in enumerate(shown):
        if len(json.dumps(tool, ensure_ascii=False)) > MAX_TOOL_CHARS:
            raise RequestError(f"tools[{at}] has more than {MAX_TOOL_CHARS} characters", param="tools")
        if names.index(names[at]) != at:
            raise RequestError(f"two tools are called {names[at]}", param="tools")
        if tool["function"].get("parameters", {}).get("type", "object") != "object":
            raise RequestError(f"tools[{at}].function.parameters must describe an object", param="tools")
    return shown


def constrained(
    sampling: SamplingParams, use: ToolUse, dialect: Dialect, thinking: bool | None
) -> SamplingParams:
    """``sampling`` with the grammar of what may be written: calls that must be made outrank a format, which
    is one of content; calls that may be made stand beside it; and thinking comes before either.
    """
    grammar = sampling.grammar
    if use.forced:
        grammar = _calls(use, dialect)
    elif use.tools and grammar is not None:
        if dialect.calls is not None and dialect.calls.bare:
            raise RequestError(
                "with this model's way of calling tools, a format of the answer needs tool_choice to be none",
                param="response_format",
            )
        grammar = either(_calls(use, dialect), grammar)
    if grammar is not None and thinking is not None:
        grammar = after_thinking(grammar, opened=thinking)
    return sampling if grammar is None else replace(sampling, grammar=grammar)


def _calls(use: ToolUse, dialect: Dialect) -> Grammar:
    assert dialect.calls is not None
    grammar = forced(dialect.calls, use.functions, use.limit)
    if len(grammar.text) > MAX_GRAMMAR_CHARS:
        raise RequestError(
            f"the tools' schemas have more than {MAX_GRAMMAR_CHARS} characters together", param="tools"
        )
    return grammar


def _chosen(tools: list[dict[str, Any]], names: list[NamedTool]) -> tuple[dict[str, Any], ...]:
    wanted = {choice.function.name for choice in names}
    chosen = tuple(tool for tool in tools if tool["function"]["name"] in wanted)
    if len(chosen) != len(wanted) or not chosen:
        raise RequestError("tool_choice names a function that is not among the tools", param="tool_choice")
    return chosen
