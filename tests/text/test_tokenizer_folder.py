"""The tokenizer of a HuggingFace folder, against transformers reading the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizer_files import CORPUS, byte_level, sentencepiece, with_bos, write_folder
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from pagewire.errors import ModelError
from pagewire.hub import ModelSource
from pagewire.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = [*CORPUS[:3], "", " a", "<|start|>x<|end|> <tool> y"]


def oracle(source: ModelSource) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(str(source.path))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "config", [{}, {"add_bos_token": True}, {"add_eos_token": True}, {"add_bos_token": False}]
)
def test_encodes_as_transformers(tmp_path: Path, config: dict[str, bool], special: bool) -> None:
    source = write_folder(tmp_path / "m", with_bos(), **config)
    ours, theirs = load_tokenizer(source), oracle(source)
    for text in TEXTS:
        assert ours.encode(text, special) == theirs.encode(text, add_special_tokens=special)


@pytest.mark.parametrize("backend", [byte_level, sentencepiece])
@pytest.mark.parametrize("skip", [True, False])
def test_decodes_as_transformers(tmp_path: Path, backend: object, skip: bool) -> None:
    source = write_folder(tmp_path / "m", backend())  # type: ignore[operator]
    ours, theirs = load_tokenizer(source), oracle(source)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ours.decode(ids, skip) == theirs.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )


@pytest.mark.parametrize("text", CORPUS[:3])
def test_sentencepiece_round_trip(tmp_path: Path, text: str) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", sentencepiece()))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_by_role(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", eos_token={"content": "<|end|>"}))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.special_ids) == (1, 0, {0, 1})
    assert tokenizer.special_names == {"bos_token": "<|start|>", "eos_token": "<|end|>"}


def test_a_token_that_only_the_config_lists(tmp_path: Path) -> None:
    size = byte_level().get_vocab_size()
    added = {str(size): {"content": "<think>", "special": False, "normalized": False}}
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", added_tokens_decoder=added))
    assert (tokenizer.encode("<think>"), tokenizer.vocab_size) == ([size], size + 1)


def test_an_added_token_with_a_taken_id_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "m", added_tokens_decoder={"5": {"content": "<think>"}})
    with pytest.raises(ModelError, match="which is taken"):
        load_tokenizer(source)


def test_truncation_in_the_file_is_ignored(tmp_path: Path) -> None:
    backend = Backend.from_str(byte_level().to_str())
    backend.enable_truncation(2)
    backend.enable_padding(length=5)
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", backend))
    assert tokenizer.decode(tokenizer.encode(CORPUS[0])) == CORPUS[0]


def templates(folder: Path, **config: object) -> dict[str, str]:
    return load_tokenizer(write_folder(folder, **config)).chat_templates


def test_template_in_the_config(tmp_path: Path) -> None:
    assert templates(tmp_path, chat_template="A") == {"default": "A"}


def test_templates_by_name(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    assert templates(tmp_path, chat_template=named) == {"default": "A", "tool_use": "B"}


def test_a_template_file_outranks_the_config(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("C")
    (tmp_path / "chat_template.jinja").write_text("B")
    assert templates(tmp_path, chat_template="A") == {"default": "B", "rag": "C"}


def load_with(folder: Path, **files: str) -> Tokenizer:
    for name, text in files.items():
        (folder / name.replace("_json", ".json").replace("_model", ".model")).write_text(text)
    return load_tokenizer(ModelSource("m", folder))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no tokenizer\.json"),
        ({"tokenizer_model": "x"}, "convert it"),
        ({"tokenizer_json": "{"}, "cannot be read"),
        ({"tokenizer_json": Backend(models.WordPiece()).to_str()}, "decodes by"),
        ({"tokenizer_json": byte_level().to_str(), "tokenizer_config_json": "["}, "not JSON"),
        ({"tokenizer_json": byte_level().to_str(), "tokenizer_config_json": "[]"}, "not a JSON object"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_with(tmp_path, **files)


def test_without_a_config_nothing_is_put_around(tmp_path: Path) -> None:
    tokenizer = load_with(tmp_path, tokenizer_json=byte_level().to_str())
    assert (tokenizer.bos_id, tokenizer.encode("")) == (None, [])


def test_names_may_come_from_the_special_tokens_map(tmp_path: Path) -> None:
    names = json.dumps({"eos_token": {"content": "<|end|>"}})
    tokenizer = load_with(tmp_path, tokenizer_json=byte_level().to_str(), special_tokens_map_json=names)
    assert tokenizer.eos_id == 0
