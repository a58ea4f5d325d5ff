"""The tokenizer inside a GGUF file.

Knows the ``tokenizer.*`` metadata of llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):
byte-level BPE with merges ("gpt2") and SentencePiece BPE by scores ("llama"). Reads no weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from pagewire.errors import ModelError
from pagewire.gguf_header import read_header
from pagewire.text.pretokenizers import scheme
from pagewire.text.vocabulary import SPACE, Pieces, Vocabulary

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def read_gguf(path: Path) -> Vocabulary:
    """Raises ModelError if the file has no tokenizer, or one of a kind that is not known."""
    meta = read_header(path).metadata
    kind, tokens = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ModelError(f"{path.name} has no tokenizer")
    types = meta.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(f"{path.name} has {len(tokens)} tokens and {len(types)} token types")
    if kind == "gpt2":
        return _byte_level(meta, tokens, types)
    if kind == "llama":
        return _sentencepiece(meta, tokens, types)
    raise ModelError(f"{path.name} has a tokenizer of kind {kind!r}; known are gpt2 and llama")


def _byte_level(meta: dict[str, Any], tokens: list[str], types: list[int]) -> Vocabulary:
    how = scheme(meta.get("tokenizer.ggml.pre"))
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [_merge(line) for line in meta.get("tokenizer.ggml.merges", [])]
    unknown = [part for pair in merges for part in (*pair, "".join(pair)) if part not in vocab]
    if unknown:
        raise ModelError(f"the GGUF file merges {unknown[0]!r}, which is not among its tokens")
    backend = Backend(models.BPE(vocab=vocab, merges=merges, ignore_merges=how.whole_words))
    if how.normalizer is not None:
        backend.normalizer = how.normalizer
    backend.pre_tokenizer = how.pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    return _vocabulary(meta, backend, Pieces.BYTE_LEVEL, tokens, types, add_bos=how.add_bos)


def _merge(line: str) -> tuple[str, str]:
    at = line.find(" ", 1)
    if at < 0:
        raise ModelError(f"the GGUF file has a merge without a space: {line!r}")
    return line[:at], line[at + 1 :]


def _sentencepiece(meta: dict[str, Any], tokens: list[str], types: list[int]) -> Vocabulary:
    scores = meta.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelError("the GGUF file has a tokenizer of kind llama without a score for each token")
    vocab = {token: index for index, token in enumerate(tokens)}
    words = [t for t, kind in zip(tokens, types, strict=True) if kind == _NORMAL]
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    backend = Backend(
        models.BPE(
            vocab=vocab,
            merges=score_merges(words, vocab, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaced = bool(meta.get("tokenizer.ggml.add_space_prefix", True))
    visible = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), visible]) if spaced else visible
    strip = [decoders.Strip(" ", 1, 0)] if spaced else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return _vocabulary(meta, backend, Pieces.SENTENCEPIECE, tokens, types, add_bos=True, strip_space=spaced)


def score_merges(words: list[str], vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Merges in the order in which SentencePiece makes them: the best-scored result first.

    Source: SentencePiece's ``bpe_model.cc`` merges the neighbours whose union has the highest score. Each way
    to cut a word into two words is such a merge; those of one word follow each other, by the ids of their
    parts.
    """
    known = set(words)
    merges = []
    for word in sorted((w for w in words if len(w) > 1), key=lambda w: (-scores[vocab[w]], vocab[w])):
        cuts = ((word[:at], word[at:]) for at in range(1, len(word)))
        pairs = [pair for pair in cuts if pair[0] in known and pair[1] in known]
        merges += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges


def _vocabulary(
    meta: dict[str, Any],
    backend: Backend,
    pieces: Pieces,
    tokens: list[str],
    types: list[int],
    *,
    add_bos: bool,
    strip_space: bool = False,
) -> Vocabulary:
    ids = {name: _token_id(meta, name, len(tokens)) for name in _NAMES}
    special = {i for i, kind in enumerate(types) if kind == _CONTROL}
    added = {i: tokens[i] for i, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED)}
    backend.add_tokens([AddedToken(t, special=i in special, normalized=False) for i, t in added.items()])
    bos, eos = ids["bos"], ids["eos"]
    add_bos = bool(meta.get("tokenizer.ggml.add_bos_token", add_bos))
    add_eos = bool(meta.get("tokenizer.ggml.add_eos_token", False))
    unknown = {i for i, kind in enumerate(types) if kind == _UNKNOWN}
    return Vocabulary(
        backend,
        pieces,
        added | {i: tokens[i] for i in unknown},
        frozenset(special | unknown),
        prefix=(bos,) if add_bos and bos is not None else (),
        suffix=(eos,) if add_eos and eos is not None else (),
        bos_id=bos,
        eos_id=eos,
        strip_space=strip_space,
        names={theirs: tokens[i] for name, theirs in _NAMES.items() if (i := ids[name]) is not None},
        templates=_templates(meta),
    )


def _token_id(meta: dict[str, Any], name: str, count: int) -> int | None:
    value = meta.get(f"tokenizer.ggml.{name}_token_id")
    if value is not None and not 0 <= value < count:
        raise ModelError(f"the GGUF file names token {value} as {name}, and has {count} tokens")
    return value


def _templates(meta: dict[str, Any]) -> dict[str, str]:
    """``tokenizer.chat_template`` and, as "default" or by their names, ``tokenizer.chat_template.NAME``."""
    key = "tokenizer.chat_template"
    named = {k.removeprefix(key + "."): v for k, v in meta.items() if k.startswith(key + ".")}
    return named | ({"default": meta[key]} if key in meta else {})
