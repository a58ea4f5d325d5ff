from __future__ import annotations

import pytest
from cuts import cut, parse, places, texts
from hypothesis import given
from hypothesis import strategies as st

from pagewire.text.output.calls import CallParser, Format
from pagewire.text.output.formats import HERMES, LLAMA3_JSON
from pagewire.text.output.pieces import Arguments, Call, Content

FORMS = [HERMES, LLAMA3_JSON]
CALL = '{"name": "f", "arguments": {"a": "}<{"}}'
LATE = '{"arguments": {"b": 1}, "name": "g"}'
PARTS = [
    f"<tool_call>{CALL}</tool_call>", f"<|python_tag|>{CALL}",
    "<tool_call>", "</tool_call>", "<|python_tag|>", CALL, LATE, '{"name": "f", "parameters": ', '{"a": [1]}',
    '{"type": "function", "name": "h", "parameters": {}}', '{"answer": 5}', "; ", "Hello there.",
]  # fmt: skip


def read(form: Format, text: str, limit: int | None = None) -> list[object]:
    """At once and letter by letter."""
    whole = parse(CallParser(form, limit), text)
    assert parse(CallParser(form, limit), *text) == whole
    return list(whole)


def hermes(text: str, limit: int | None = None) -> list[object]:
    return read(HERMES, text, limit)


def llama(text: str) -> list[object]:
    return read(LLAMA3_JSON, text)


def test_a_call_between_words() -> None:
    assert hermes(f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>\nDone.") == [
        Content("Let me see."),
        Call("f"),
        Arguments('{"a": "}<{"}'),
        Content("Done."),
    ]


def test_two_calls_and_nothing_else() -> None:
    text = f"\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{LATE}\n</tool_call>\n"
    assert hermes(text) == [Call("f"), Arguments('{"a": "}<{"}'), Call("g"), Arguments('{"b": 1}')]


def test_a_limit_drops_what_follows() -> None:
    text = f"<tool_call>{CALL}</tool_call>" * 2 + "x"
    assert hermes(text, limit=1) == [Call("f"), Arguments('{"a": "}<{"}')]


def test_arguments_come_as_the_model_writes_them() -> None:
    parser = CallParser(HERMES)
    assert parser.push('<tool_call>{"name": "f", "arguments": ') == []
    assert parser.push('{"a') == [Call("f"), Arguments('{"a')]
    assert parser.push('": 1') == [Arguments('": 1')]
    assert parser.push("}}") == [Arguments("}")]


def test_a_call_without_arguments() -> None:
    assert hermes('<tool_call>{"name": "now"}</tool_call>') == [Call("now"), Arguments("{}")]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nnot json\n</tool_call>",
        '<tool_call>{"nam": "f", "arguments": {}}</tool_call>',
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "text"}</tool_call> and so on',
        '<tool_call>{"name": "f", "argu',
        "<tool_call>",
        " <tool_ca",
        "a < b",
        '  <tool_call>{"name": "\\x", "arguments": {}}',
        " \n ",
    ],
)
def test_what_is_no_call_is_content_as_it_was_written(text: str) -> None:
    assert hermes(text) == [Content(text)]


def test_a_call_cut_off_keeps_the_arguments_so_far() -> None:
    assert hermes('<tool_call>{"name": "f", "arguments": {"a": 1') == [Call("f"), Arguments('{"a": 1')]


def test_a_bracket_that_is_missing_ends_with_the_mark() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>Well'
    assert hermes(text) == [Call("f"), Arguments('{"a": 1'), Content("Well")]


def test_bare_json_is_a_call_in_llamas_format() -> None:
    text = '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}'
    assert llama(text) == [Call("f"), Arguments('{"a": 1}'), Call("g"), Arguments("{}")]


def test_a_tagged_call_in_llamas_format() -> None:
    text = 'So: <|python_tag|>{"type": "function", "name": "f", "parameters": {"a": 1}}'
    assert llama(text) == [Content("So:"), Call("f"), Arguments('{"a": 1}')]


@pytest.mark.parametrize("text", ['{"answer": 5} {"name": "f", "parameters": {}}', 'Well, {"name": "f"}'])
def test_json_that_is_an_answer_is_content_in_llamas_format(text: str) -> None:
    assert llama(text) == [Content(text)]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@given(text=texts(*PARTS), at=places)
def test_it_does_not_matter_how_the_text_was_cut(form: Format, text: str, at: list[int]) -> None:
    whole = parse(CallParser(form), text)
    assert parse(CallParser(form), *cut(text, at)) == whole
    assert parse(CallParser(form), *text) == whole


@given(st.text(alphabet=st.characters(exclude_characters="<")))
def test_text_without_a_mark_is_itself(text: str) -> None:
    assert parse(CallParser(HERMES), text) == ([Content(text)] if text else [])
