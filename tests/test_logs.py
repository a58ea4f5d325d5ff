from __future__ import annotations

import json
import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from pagewire import logs
from pagewire.logs import JsonLines, TextLines


def record(message: str, **facts: logs.Fact) -> logging.LogRecord:
    made = logging.LogRecord("pagewire.test", logging.WARNING, "", 0, message, None, None)
    made.facts = facts
    return made


def failed() -> logging.LogRecord:
    made = record("it broke")
    try:
        raise ValueError("a\x1b[31mred\x1b[0m reason")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


@given(st.text())
def test_a_record_is_one_line_without_control_characters(text: str) -> None:
    for written in (
        JsonLines("router").format(record(text, who=text)),
        TextLines().format(record(text, who=text)),
    ):
        assert written.isprintable()


def test_json_has_the_facts_beside_the_message() -> None:
    found = json.loads(JsonLines("router").format(record("request", tokens_in=3, finish=None)))
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "warning", "process": "router", "message": "request", "logger": "pagewire.test",
        "tokens_in": 3, "finish": None,
    }  # fmt: skip


def test_text_has_those_that_are_there() -> None:
    assert TextLines().format(record("request", tokens_in=3, finish=None)).endswith("request tokens_in=3")


def test_an_exception_is_told_without_its_control_characters() -> None:
    assert "\\x1b[31mred" in TextLines().format(failed())
    assert "\x1b" not in TextLines().format(failed())
    assert "a\x1b[31mred" in json.loads(JsonLines("router").format(failed()))["exception"]
    assert "\x1b" not in JsonLines("router").format(failed())
