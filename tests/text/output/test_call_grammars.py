"""What the grammars of forced calls permit, as llguidance reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from pagewire.sampling import Grammar
from pagewire.text.output.calls import Format
from pagewire.text.output.formats import HERMES, LLAMA3_JSON, forced, written
from pagewire.text.output.mixed import after_thinking, either

BYTES = LLTokenizer("byte")
F: dict[str, Any] = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/whole"}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"whole": {"type": "integer"}},
    },
}
TEXT = {"properties": {"a": {"type": "string"}}, "required": ["a"]}
G: dict[str, Any] = {"name": "g-1", "parameters": TEXT}
ANSWER = Grammar("json_schema", '{"type": "object", "properties": {"x": {"enum": [1]}}, "required": ["x"]}')
NUMBER = Grammar("regex", r"\d+/\d+")


def permits(grammar: Grammar, text: str) -> bool:
    """Is ``text`` one that ``grammar`` may end with?"""
    assert grammar.kind == "lark"
    matcher = LLMatcher(BYTES, grammar.text, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = BYTES.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("form", [HERMES, LLAMA3_JSON], ids=lambda form: form.name)
def test_a_forced_text_is_calls_with_arguments_that_fit(form: Format) -> None:
    grammar = forced(form, [F, G])
    one, other = written(form, "f", '{"a": 1}'), written(form, "g-1", '{"a": "ü"}')
    assert permits(grammar, one)
    assert permits(grammar, other)
    assert permits(grammar, one + ("\n" if form.closing else "; ") + other)
    assert not permits(grammar, written(form, "f", '{"a": "1"}'))
    assert not permits(grammar, written(form, "h", '{"a": 1}'))
    assert not permits(grammar, written(form, "f", "{}"))
    assert not permits(grammar, "Well, " + one)


def test_a_limit_of_one_call() -> None:
    call = written(HERMES, "f", '{"a": 1}')
    assert permits(forced(HERMES, [F], 1), call)
    assert not permits(forced(HERMES, [F], 1), f"{call}\n{call}")


def test_a_tool_without_parameters_takes_any_object() -> None:
    assert permits(forced(HERMES, [{"name": "t"}]), written(HERMES, "t", '{"z": [1, null]}'))


def test_calls_or_an_answer() -> None:
    grammar = either(forced(HERMES, [F]), ANSWER)
    assert permits(grammar, written(HERMES, "f", '{"a": 1}'))
    assert permits(grammar, '{"x": 1}')
    assert not permits(grammar, '{"x": 2}')


@pytest.mark.parametrize(
    ("text", "opened", "right"),
    [
        ('Hm, {"x": 2}?\n</think>\n\n{"x": 1}', True, True),
        ('{"x": 1}', True, False),
        ('<think>Hm.</think>{"x": 1}', False, True),
        ('{"x": 1}', False, True),
        ('<think>Hm.</think>{"x": 2}', False, False),
        ('\n{"x": 1}', False, False),
    ],
)
def test_thinking_comes_before_what_must_match(text: str, opened: bool, right: bool) -> None:
    assert permits(after_thinking(ANSWER, opened=opened), text) == right


def test_every_kind_can_stand_in_another() -> None:
    lark = Grammar("lark", 'start: yes\nyes: "yes"\n')
    assert permits(after_thinking(lark, opened=False), "<think>?</think> yes")
    assert permits(after_thinking(NUMBER, opened=False), "12/7")
    assert permits(either(lark, NUMBER), "1/2")
    assert permits(after_thinking(either(forced(HERMES, [F]), ANSWER), opened=True), 'x</think>{"x": 1}')


def test_a_schema_in_another_grammar_stays_on_one_line() -> None:
    assert not permits(either(ANSWER, NUMBER), '{\n"x": 1}')
    assert json.loads(ANSWER.text)
