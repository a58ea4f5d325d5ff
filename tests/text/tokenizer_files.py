"""Small tokenizers written to disk, for the tests of this folder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from gguf import GGUFWriter
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from pagewire.hub import ModelSource

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 2024, and they'll've jumped 1234567 times!",
    "def main():\n    return {'a': 1}\n\n\nclass A:\tpass  # two  spaces\r\n",
    "Größe café naïve Ελληνικά русский 日本語 中文 한국어 😀🎉",
] * 3
SPECIAL = ["<|end|>", "<|start|>"]


@cache
def byte_level() -> Tokenizer:
    """GPT-2's kind: byte-level BPE over the whole alphabet, with two special tokens and a tool tag."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return tokenizer


def merges_of(tokenizer: Tokenizer) -> list[str]:
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def write_gguf(path: Path, tokenizer: Tokenizer | None = None, **changes: Any) -> ModelSource:
    """A GGUF file of ``tokenizer``. A change of None leaves the field out."""
    tokenizer = tokenizer or byte_level()
    added = tokenizer.get_added_tokens_decoder()
    size = tokenizer.get_vocab_size()
    fields: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [tokenizer.id_to_token(i) for i in range(size)],
        "token_type": [1 if i not in added else 3 if added[i].special else 4 for i in range(size)],
        "merges": merges_of(tokenizer),
        "bos_token_id": 1,
        "eos_token_id": 0,
    } | changes
    return write_fields(path, {f"tokenizer.ggml.{name}": value for name, value in fields.items()})


def write_fields(path: Path, fields: dict[str, Any]) -> ModelSource:
    writer = GGUFWriter(str(path), "llama")
    for name, value in fields.items():
        match value:
            case None:
                pass
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case str():
                writer.add_string(name, value)
            case list():
                writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelSource(path.stem, path)


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
WORDS = ["▁", "t", "h", "e", "c", "a", "▁t", "he", "▁the", "at", "▁c", "▁cat", "cat", "s", "1", "2", "ea"]


def write_sentencepiece(path: Path, **changes: Any) -> ModelSource:
    """Llama's kind: pieces with scores, and a byte for every character that has no piece."""
    count = len(PIECES) + len(WORDS)
    fields = {
        "model": "llama",
        "tokens": PIECES + WORDS,
        "scores": [0.0] * len(PIECES) + [-float(n) for n in range(len(WORDS))],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(WORDS),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | changes
    assert count == len(fields["tokens"])
    return write_fields(path, {f"tokenizer.ggml.{name}": value for name, value in fields.items()})


def write_folder(path: Path, tokenizer: Tokenizer | None = None, **config: Any) -> ModelSource:
    """A HuggingFace folder with ``tokenizer_config.json`` as given."""
    path.mkdir(parents=True, exist_ok=True)
    (tokenizer or byte_level()).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<|start|>", "eos_token": "<|end|>", **config})
    )
    (path / "config.json").write_text("{}")
    return ModelSource(path.name, path)


def with_bos() -> Tokenizer:
    """``byte_level`` with a post-processor that puts <|start|> before each prompt."""
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 1)]
    )
    return tokenizer


def sentencepiece() -> Tokenizer:
    """Llama's kind as a tokenizer.json, trained on the corpus."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=PIECES, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]  # bytes are pieces, not special tokens
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer
