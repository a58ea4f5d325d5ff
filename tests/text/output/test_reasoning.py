from __future__ import annotations

import pytest
from cuts import cut, parse, places, texts
from hypothesis import given
from hypothesis import strategies as st

from pagewire.text.output.calls import CallParser
from pagewire.text.output.formats import HERMES
from pagewire.text.output.parser import OutputParser
from pagewire.text.output.pieces import Arguments, Call, Content, Reasoning
from pagewire.text.output.reasoning import ThinkSplitter

TEXT = texts("<think>", "</think>", "Hm, well.", "\n\n", "Yes.", "<tool_call>")


def split(text: str, *, thinking: bool = False) -> list[object]:
    """At once and letter by letter."""
    whole = parse(ThinkSplitter(thinking=thinking), text)
    assert parse(ThinkSplitter(thinking=thinking), *text) == whole
    return list(whole)


@pytest.mark.parametrize("text", ["<think>\nHm.\n</think>\n\nYes.", "  <think>Hm.</think>Yes."])
def test_thinking_and_answer(text: str) -> None:
    assert split(text) == [Reasoning("Hm."), Content("Yes.")]


@pytest.mark.parametrize("text", ["Hm.\n</think>\n\nYes.", "\n<think>\nHm.</think>Yes."])
def test_thinking_that_the_prompt_began(text: str) -> None:
    assert split(text, thinking=True) == [Reasoning("Hm."), Content("Yes.")]


def test_thinking_that_has_no_end() -> None:
    assert split("<think>Hm. </thin") == [Reasoning("Hm. </thin")]


def test_no_thinking() -> None:
    assert split(" Yes. <think>no</think>") == [Content(" Yes. <think>no</think>")]


def test_empty_thinking() -> None:
    assert split("<think>\n\n</think>\n\nYes.") == [Content("Yes.")]


def test_an_answer_that_is_nothing() -> None:
    assert split("") == []
    assert split("<thi") == [Content("<thi")]


def test_where_the_thinking_ends() -> None:
    splitter = ThinkSplitter(thinking=False)
    splitter.push("<think>Hm.")
    assert splitter.ended is None
    splitter.push("</think>Yes.")
    assert splitter.ended == len("<think>Hm.</think>")


def test_without_thinking_it_ended_at_once() -> None:
    splitter = ThinkSplitter(thinking=False)
    splitter.push("Yes.")
    assert splitter.ended == 0


@given(TEXT, places, st.booleans())
def test_it_does_not_matter_how_the_text_was_cut(text: str, at: list[int], thinking: bool) -> None:
    whole, parts, letters = (ThinkSplitter(thinking=thinking) for _ in range(3))
    said = parse(whole, text)
    assert parse(parts, *cut(text, at)) == said
    assert parse(letters, *text) == said
    assert parts.ended == letters.ended == whole.ended


def test_a_call_after_thinking() -> None:
    text = 'Hm, <tool_call>.\n</think>\n\n<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    parser = OutputParser(ThinkSplitter(thinking=True), CallParser(HERMES))
    assert parse(parser, text) == [Reasoning("Hm, <tool_call>."), Call("f"), Arguments("{}")]


@given(TEXT, places)
def test_both_parsers_together(text: str, at: list[int]) -> None:
    def parser() -> OutputParser:
        return OutputParser(ThinkSplitter(thinking=False), CallParser(HERMES))

    assert parse(parser(), *cut(text, at)) == parse(parser(), text)
