"""The tokenizer of GGUF files: the demo model's, and small ones written here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import CORPUS, byte_level, write_fields, write_gguf, write_sentencepiece
from tokenizers import Regex, pre_tokenizers

from pagewire.errors import ModelError, RequestError
from pagewire.text.pretokenizers import scheme
from pagewire.text.tokenizer import Tokenizer, load_tokenizer

# Token ids that the SmolLM2 tokenizer on the hub gives.
SMOLLM2 = {
    "Hello, we can use": [19556, 28, 392, 416, 722],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
}
# Bytes that SmolLM2's vocabulary lacks; its tokenizer drops them.
ABSENT = frozenset(b"\x04\x06\x13\x14\x16\x1d\xf1\xf2")


def kept(text: str) -> bool:
    return not ABSENT & set(text.encode())


@pytest.mark.parametrize("text", SMOLLM2)
def test_demo_gives_the_published_ids(demo: Tokenizer, text: str) -> None:
    assert demo.encode(text) == SMOLLM2[text]


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"]).filter(kept), max_size=60))
def test_demo_round_trip(demo: Tokenizer, text: str) -> None:
    assert demo.decode(demo.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["👩‍👩‍👧‍👦 🇫🇷", "日本語と한국어", "\x00\x01\x1b[0m\t\r\n", "a\u0301 \u200b\ufeff", ""]
)
def test_demo_round_trip_of_awkward_texts(demo: Tokenizer, text: str) -> None:
    assert demo.decode(demo.encode(text)) == text


def test_demo_facts(demo: Tokenizer) -> None:
    assert (demo.vocab_size, demo.bos_id, demo.eos_id) == (49152, 1, 2)
    assert demo.special_names["eos_token"] == "<|im_end|>"
    assert len(demo.special_ids) == 17


def test_special_tokens_in_the_text_are_parsed(demo: Tokenizer) -> None:
    assert demo.encode("<|im_start|>user\nhi<|im_end|>")[::4] == [1, 2]


def test_special_tokens_are_skipped_or_shown(demo: Tokenizer) -> None:
    assert (demo.decode([1, 19556, 2]), demo.decode([1, 19556, 2], skip_special_tokens=False)) == (
        "Hello",
        "<|im_start|>Hello<|im_end|>",
    )


def test_half_a_surrogate_pair_is_the_clients_fault(demo: Tokenizer) -> None:
    with pytest.raises(RequestError, match="not valid Unicode"):
        demo.encode("a\ud800")


def test_parts_of_a_character_have_their_bytes(demo: Tokenizer) -> None:
    ids = demo.encode("🦩")
    assert len(ids) > 1
    assert b"".join(map(demo.token_bytes, ids)) == "🦩".encode()
    assert demo.token_text(ids[0]).endswith("\ufffd")


@pytest.mark.parametrize("token", [49152, 1 << 40, -1])
def test_an_id_without_a_piece_is_no_text(demo: Tokenizer, token: int) -> None:
    assert (demo.token_bytes(token), demo.decode([19556, token])) == (b"", "Hello")


def test_neither_torch_nor_transformers_is_loaded() -> None:
    code = (
        "import sys, pagewire.text.chat, pagewire.text.stream, pagewire.text.tokenizer, pagewire.hub\n"
        "assert not {'torch', 'transformers', 'gguf', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("text", [*CORPUS[:3], "<|start|>x<|end|>", "<tool> 12"])
def test_byte_level_encodes_as_the_tokenizer_it_was_written_from(tmp_path: Path, text: str) -> None:
    tokenizer = load_tokenizer(write_gguf(tmp_path / "m.gguf"))
    assert tokenizer.encode(text) == byte_level().encode(text).ids


@pytest.mark.parametrize(("pre", "whole"), [("llama-bpe", True), ("qwen2", False)])
def test_a_word_that_is_a_token_may_need_no_merges(tmp_path: Path, pre: str, whole: bool) -> None:
    backend = byte_level()
    tokens = [*map(backend.id_to_token, range(backend.get_vocab_size())), "Ġzqx"]
    source = write_gguf(tmp_path / "m.gguf", pre=pre, tokens=tokens, token_type=None)
    ids = load_tokenizer(source).encode(" zqx", add_special_tokens=False)
    assert (ids == [len(tokens) - 1]) is whole


def test_user_defined_tokens_are_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_gguf(tmp_path / "m.gguf"))
    assert tokenizer.decode(tokenizer.encode("<|start|><tool>")) == "<tool>"


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({}, []),
        ({"add_bos_token": True}, [1]),
        ({"add_bos_token": True, "add_eos_token": True}, [1, 0]),
        ({"pre": "llama-bpe"}, [1]),
        ({"pre": "llama-bpe", "add_bos_token": False}, []),
    ],
)
def test_what_is_put_around_a_prompt(tmp_path: Path, changes: dict[str, object], ids: list[int]) -> None:
    tokenizer = load_tokenizer(write_gguf(tmp_path / "m.gguf", **changes))
    assert (tokenizer.encode(""), tokenizer.encode("", add_special_tokens=False)) == (ids, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "nonesuch"}, "pre-tokenizer 'nonesuch'"),
        ({"pre": None}, "no pre-tokenizer"),
        ({"model": "bert"}, "kind 'bert'"),
        ({"model": "llama"}, "score"),
        ({"tokens": None}, "no tokenizer"),
        ({"merges": ["Q zz"]}, "merges 'zz'"),
        ({"merges": ["Qzz"]}, "without a space"),
        ({"token_type": [1]}, "token types"),
        ({"bos_token_id": 999999}, "names token 999999 as bos"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_tokenizer(write_gguf(tmp_path / "m.gguf", **changes))


def test_a_file_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(write_fields(tmp_path / "m.gguf", {}))


def test_templates_by_name(tmp_path: Path) -> None:
    fields = {"tokenizer.chat_template": "A", "tokenizer.chat_template.tool_use": "B"}
    source = write_gguf(tmp_path / "a.gguf")
    assert load_tokenizer(source).chat_templates == {}
    tokens = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": ["a"]}
    both = load_tokenizer(write_fields(tmp_path / "b.gguf", tokens | fields))
    assert both.chat_templates == {"default": "A", "tool_use": "B"}


def words(name: str, text: str) -> list[str]:
    return [text[slice(*span)] for _, span in scheme(name).pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", ["It", "'s", " 12345", " ok", "!!", " \n", "\n", "x"]),
        ("smollm", ["It", "'s", " ", "1", "2", "3", "4", "5", " ok", "!!", " \n", "\n", "x"]),
        ("llama-bpe", ["It", "'s", " ", "123", "45", " ok", "!!", " \n\n", "x"]),
        ("qwen2", ["It", "'s", " ", "1", "2", "3", "4", "5", " ok", "!!", " \n\n", "x"]),
        ("tekken", ["It", "'s", " ", "1", "2", "3", "4", "5", " ok", "!!", " \n\n", "x"]),
    ],
)
def test_words_of_each_scheme(name: str, expected: list[str]) -> None:
    assert words(name, "It's 12345 ok!! \n\nx") == expected


def test_llama3_expression_is_the_published_one() -> None:
    published = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(published, "isolated")
    text = " ".join(CORPUS)
    assert words("llama-bpe", text) == [word for word, _ in split.pre_tokenize_str(text)]


def test_qwen2_composes_characters_first(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_gguf(tmp_path / "m.gguf", pre="qwen2"))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.token_text(token) for token in ids]


def test_sentencepiece_merges_by_score(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path / "m.gguf"))
    assert pieces(tokenizer, tokenizer.encode("the cats")) == ["<s>", " the", " cat", "s"]


def test_sentencepiece_prefers_the_better_score(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path / "m.gguf"))
    assert pieces(tokenizer, tokenizer.encode("thea")) == ["<s>", " the", "a"]


def test_sentencepiece_falls_back_to_bytes(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path / "m.gguf"))
    ids = tokenizer.encode("the é", add_special_tokens=False)
    assert [tokenizer.token_bytes(token) for token in ids] == [b" the", b" ", b"\xc3", b"\xa9"]
    assert tokenizer.decode(ids) == "the é"


def test_sentencepiece_puts_a_space_after_a_special_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path / "m.gguf"))
    assert pieces(tokenizer, tokenizer.encode("cat</s>cat")) == ["<s>", " cat", "</s>", " cat"]


def test_sentencepiece_without_the_space(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path / "m.gguf", add_space_prefix=False))
    ids = tokenizer.encode("cat", add_special_tokens=False)
    assert (pieces(tokenizer, ids), tokenizer.decode(tokenizer.encode(" cat"))) == (["cat"], " cat")


@settings(deadline=None, max_examples=100)
@given(text=st.text("the ca12é😀\n", max_size=30))
def test_sentencepiece_round_trip(spm: Tokenizer, text: str) -> None:
    assert spm.decode(spm.encode(text)) == text
