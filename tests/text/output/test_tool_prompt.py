from __future__ import annotations

from typing import Any

from pagewire.text.output.formats import HERMES, LLAMA3_JSON
from pagewire.text.output.tool_prompt import told

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "description": "Does it."}}
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": "Now.",
    "tool_calls": [{"function": {"name": "f", "arguments": {"a": "ü"}}}],
}


def test_tools_are_told_first() -> None:
    first, second = told([USER], [TOOL], HERMES)
    assert (first["role"], second) == ("system", USER)
    assert "Does it." in first["content"]
    assert HERMES.opening in first["content"]


def test_a_system_message_that_is_there_is_kept() -> None:
    first, _ = told([{"role": "system", "content": "Be kind."}, USER], [TOOL], LLAMA3_JSON)
    assert first["content"].startswith("Be kind.\n\n")
    assert '"parameters"' in first["content"]


def test_calls_and_results_are_text() -> None:
    _, call, result = told([USER, CALLED, {"role": "tool", "content": "5"}], [], HERMES)
    assert call == {
        "role": "assistant",
        "content": 'Now.\n<tool_call>\n{"name": "f", "arguments": {"a": "ü"}}\n</tool_call>',
    }
    assert result == {"role": "user", "content": "The function returned:\n5"}


def test_without_tools_nothing_changes() -> None:
    assert told([USER], [], HERMES) == [USER]
