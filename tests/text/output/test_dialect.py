from __future__ import annotations

import pytest

from pagewire.errors import ConfigError
from pagewire.text.output.dialect import DEEPSEEK_R1, NONE, QWEN3, Dialect, dialect_of
from pagewire.text.output.formats import HERMES, LLAMA3_JSON

QWEN = "{% if tools %}<tool_call>{% endif %}{% if enable_thinking %}<think>{% endif %}"
LLAMA = '{% if tools %}{"name": x, "parameters": y}{% endif %}{{ "ipython" }}'


class Speaker:
    """A tokenizer with a template and words that are one token each."""

    def __init__(self, template: str = "", words: list[str] | None = None, special: str = "") -> None:
        self.chat_templates = {"default": template} if template else {}
        self._words = {word: at for at, word in enumerate([*(words or []), special])}
        self.special_ids = frozenset({self._words[special]})

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [self._words[text]] if text in self._words else [900, 901]


@pytest.mark.parametrize(
    ("template", "form", "reasoning"),
    [(QWEN, HERMES, QWEN3), (LLAMA, LLAMA3_JSON, NONE), ("{{ messages }}", HERMES, NONE), ("", HERMES, NONE)],
)
def test_a_template_shows_how_a_model_speaks(template: str, form: object, reasoning: str) -> None:
    found = dialect_of(Speaker(template))
    assert (found.calls, found.reasoning, found.shown) == (form, reasoning, "tools" in template)


def test_a_vocabulary_shows_that_a_model_thinks() -> None:
    assert dialect_of(Speaker("{{ messages }}", words=["<think>"])).thinks


def test_what_is_chosen_outranks_what_is_shown() -> None:
    found = dialect_of(Speaker(QWEN), "llama3_json", "deepseek_r1")
    assert (found.calls, found.reasoning) == (LLAMA3_JSON, DEEPSEEK_R1)
    found = dialect_of(Speaker(QWEN), "none", "none")
    assert (found.calls, found.thinks) == (None, False)


@pytest.mark.parametrize("names", [("other", "auto"), ("auto", "other")])
def test_a_name_that_is_not_known(names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="is one of"):
        dialect_of(Speaker(), *names)


def test_marks_that_are_special_tokens_stay_in_the_text() -> None:
    speaker = Speaker(LLAMA, special="<|python_tag|>")
    assert dialect_of(speaker).marks == {0}


@pytest.mark.parametrize(
    ("reasoning", "prompt", "thinking"),
    [
        (NONE, "<think>", None),
        (QWEN3, "<|im_start|>assistant\n", False),
        (QWEN3, "<|im_start|>assistant\n<think>\n", True),
        (QWEN3, "<think>\n\n</think>\n\n", None),
        (DEEPSEEK_R1, "<|Assistant|>", True),
        (DEEPSEEK_R1, "<think></think>", None),
    ],
)
def test_where_an_answer_begins(reasoning: str, prompt: str, thinking: bool | None) -> None:
    assert Dialect(reasoning=reasoning).thinking(prompt) is thinking
