"""Compiled once, in the background, and kept; and what stands in for what cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from alphabet import EOS, regex, text_of, vocabulary
from tiny import model_folder

from pagewire.errors import RequestError
from pagewire.grammar import Vocabulary
from pagewire.grammars import KEPT, Grammars, grammars_of


class Counted(Grammars):
    """Says how often a vocabulary was loaded."""

    loads = 0

    def __init__(self) -> None:
        super().__init__(self._counted)

    def _counted(self) -> Vocabulary:
        self.loads += 1
        return vocabulary()


def test_the_vocabulary_is_loaded_once_and_only_if_it_is_needed() -> None:
    grammars = Counted()
    assert grammars.loads == 0
    for text in ("a", "b", "a"):
        grammars.check(regex(text))
    assert grammars.loads == 1


def test_matchers_of_one_grammar_do_not_share_their_way() -> None:
    grammars = Counted()
    one, other = grammars.matcher(regex("ab"), []), grammars.matcher(regex("ab"), [])
    one.advance([tokens_of("a")[0]])
    other.advance(tokens_of("ab"))
    assert (one.stopped, other.stopped) == (False, True)


def test_a_matcher_begins_behind_the_output() -> None:
    assert Counted().matcher(regex("ab"), tokens_of("ab")).stopped


def test_a_bad_grammar_permits_nothing_and_says_why() -> None:
    matcher = Counted().matcher(regex("(("), [])
    matcher.advance([EOS])
    assert not matcher.fork().mask().any()
    assert "unclosed" in matcher.error


def test_only_so_many_are_kept() -> None:
    grammars = Counted()
    for count in range(1, KEPT + 10):
        grammars.prepare(regex("a" * count))
    assert len(grammars._compiled) == KEPT
    grammars.check(regex("a"))  # forgotten, and compiled again


def test_a_model_without_a_tokenizer_has_no_grammars(tmp_path: Path) -> None:
    grammars = grammars_of(model_folder(tmp_path / "tiny"), 96, [EOS])
    with pytest.raises(RequestError, match="not supported"):
        grammars.check(regex("a"))
    assert "tokenizer" in grammars.matcher(regex("a"), []).error


def tokens_of(text: str) -> list[int]:
    found = [ord(char) - 30 for char in text]
    assert text_of(found) == text
    return found
