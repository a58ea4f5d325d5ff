"""How a model speaks: its format of tool calls and whether it thinks, chosen once, when a server starts.

Knows names of formats and what a vocabulary shows of them; knows no request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from pagewire.errors import ConfigError
from pagewire.text.output import reasoning
from pagewire.text.output.calls import CallParser, Format
from pagewire.text.output.formats import FORMATS, HERMES, format_of
from pagewire.text.output.parser import OutputParser
from pagewire.text.output.reasoning import ThinkSplitter

NONE, AUTO = "none", "auto"
QWEN3, DEEPSEEK_R1 = "qwen3", "deepseek_r1"
TOOL_PARSERS = (AUTO, *FORMATS, NONE)
REASONING_PARSERS = (AUTO, DEEPSEEK_R1, QWEN3, NONE)


class Speech(Protocol):
    """What this needs of a tokenizer."""

    chat_templates: dict[str, str]
    special_ids: frozenset[int]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """``calls`` None: no tools. ``shown``: template and prompt can show tools by themselves. ``marks`` are
    special tokens that stand for a mark, which must stay in the text for the parsers to see.
    """

    calls: Format | None = HERMES
    shown: bool = False
    reasoning: str = NONE
    marks: frozenset[int] = field(default_factory=frozenset)

    @property
    def thinks(self) -> bool:
        return self.reasoning != NONE

    def thinking(self, prompt: str) -> bool | None:
        """Does the answer to ``prompt`` begin amid the thinking? None: it will have none."""
        end = prompt[-256:].rstrip()
        if not self.thinks or end.endswith(reasoning.CLOSE):
            return None
        return self.reasoning == DEEPSEEK_R1 or end.endswith(reasoning.OPEN)

    def parser(self, thinking: bool | None, tools: bool, limit: int | None) -> OutputParser:
        """For one choice."""
        return OutputParser(
            None if thinking is None else ThinkSplitter(thinking=thinking),
            CallParser(self.calls, limit) if tools and self.calls else None,
        )


def dialect_of(speech: Speech, tool_parser: str = AUTO, reasoning_parser: str = AUTO) -> Dialect:
    """Raises ConfigError on a name that is none of TOOL_PARSERS or REASONING_PARSERS."""
    if tool_parser not in TOOL_PARSERS:
        raise ConfigError(f"--tool-call-parser is one of {', '.join(TOOL_PARSERS)}")
    if reasoning_parser not in REASONING_PARSERS:
        raise ConfigError(f"--reasoning-parser is one of {', '.join(REASONING_PARSERS)}")
    templates = speech.chat_templates
    source = templates.get("tool_use") or templates.get("default") or ""
    form = format_of(source) if tool_parser == AUTO else FORMATS.get(tool_parser)
    if reasoning_parser == AUTO:
        thinks = reasoning.OPEN in source or _token(speech, reasoning.OPEN) is not None
        reasoning_parser = QWEN3 if thinks else NONE
    marks = [form.opening, form.closing] if form else []
    if reasoning_parser != NONE:
        marks += [reasoning.OPEN, reasoning.CLOSE]
    tokens = {_token(speech, mark) for mark in marks if mark} & speech.special_ids
    shown = frozenset(token for token in tokens if token is not None)
    return Dialect(form, "tools" in source, reasoning_parser, shown)


def _token(speech: Speech, mark: str) -> int | None:
    """The token that stands for ``mark``, if one does."""
    tokens = speech.encode(mark, add_special_tokens=False)
    return tokens[0] if len(tokens) == 1 else None
