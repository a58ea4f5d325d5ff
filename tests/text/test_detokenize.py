"""Incremental detokenisation: against decoding all at once, and against the tokenizers library."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.text.detokenize import Detokenizer
from pagewire.text.tokenizer import Tokenizer

IDS = st.lists(st.integers(0, 49151), max_size=40)
BROKEN = st.lists(st.one_of(st.integers(17, 300), st.sampled_from([182, 185, 240, 241, 242])), max_size=40)


def pushed(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer, **options)
    return [*map(detokenizer.push, ids), detokenizer.flush()]


@settings(deadline=None, max_examples=300)
@given(ids=st.one_of(IDS, BROKEN), skip=st.booleans())
def test_pieces_join_to_what_the_library_decodes(demo: Tokenizer, ids: list[int], skip: bool) -> None:
    expected = demo._backend.decode(ids, skip_special_tokens=skip)
    assert "".join(pushed(demo, ids, skip_special_tokens=skip)) == expected
    assert demo.decode(ids, skip_special_tokens=skip) == expected


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF), max_size=40))
def test_never_half_a_character(demo: Tokenizer, text: str) -> None:
    ids = demo.encode(text)
    whole, shown = demo.decode(ids), ""
    for piece in pushed(demo, ids):
        shown += piece
        assert whole.startswith(shown)


def test_a_character_is_shown_with_its_last_byte(demo: Tokenizer) -> None:
    ids = demo.encode("a🦩b")
    assert [piece for piece in pushed(demo, ids) if piece] == ["a", "🦩", "b"]


def test_a_broken_character_is_shown_once_it_is_certain(demo: Tokenizer) -> None:
    first = demo.encode("🦩")[0]
    assert pushed(demo, [first, *demo.encode("b")]) == ["", "\ufffdb", ""]


def test_what_is_missing_at_the_end_is_replaced(demo: Tokenizer) -> None:
    first = demo.encode("🦩")[0]
    assert pushed(demo, [first]) == ["", "\ufffd"]


@settings(deadline=None, max_examples=200)
@given(text=st.text("the ca12é😀\n", max_size=30))
def test_sentencepiece_agrees_with_the_library_on_text(spm: Tokenizer, text: str) -> None:
    ids = spm.encode(text)
    assert "".join(pushed(spm, ids)) == spm._backend.decode(ids)


def test_a_valid_character_survives_in_a_broken_run_of_bytes(spm: Tokenizer) -> None:
    ids = [3 + byte for byte in b"\xc3\xa9\xff"]
    assert "".join(pushed(spm, ids)) == "é\ufffd"


@pytest.mark.parametrize(("continues", "text"), [(False, "cat cat"), (True, " cat cat")])
def test_the_first_space_is_the_models_own_after_a_prompt(spm: Tokenizer, continues: bool, text: str) -> None:
    ids = spm.encode("cat cat")
    assert "".join(pushed(spm, ids, continues=continues)) == text
