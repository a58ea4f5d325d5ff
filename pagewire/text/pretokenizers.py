"""How text is cut into words before byte-level BPE, by the name that a GGUF file gives in
``tokenizer.ggml.pre``.

Knows the published expression of each family; knows no vocabulary. The expressions are those of the families'
own ``tokenizer.json``. A wrong choice here gives other tokens than the model was trained on, so an unknown
name is refused rather than guessed.
"""

from __future__ import annotations

from typing import NamedTuple

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from pagewire.errors import ModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Scheme(NamedTuple):
    """``whole_words``: a word that is a token is not merged. ``add_bos``: where the file does not say."""

    pre_tokenizer: PreTokenizer
    normalizer: Normalizer | None = None
    whole_words: bool = False
    add_bos: bool = False


def _gpt2() -> Scheme:
    return Scheme(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))


def _digits() -> Scheme:
    """GPT-2's words, after each digit has been set apart."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return Scheme(pre_tokenizers.Sequence([digits, _gpt2().pre_tokenizer]))


def _split(expression: str) -> PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _llama3() -> Scheme:
    return Scheme(_split(_LLAMA3), whole_words=True, add_bos=True)


def _smaug() -> Scheme:
    return Scheme(_split(_LLAMA3))


def _qwen2() -> Scheme:
    return Scheme(_split(_QWEN2), normalizers.NFC())


def _deepseek_r1_qwen() -> Scheme:
    return Scheme(_split(_QWEN2))


def _tekken() -> Scheme:
    return Scheme(_split(_TEKKEN), whole_words=True, add_bos=True)


_SCHEMES = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "smollm": _digits,
    "starcoder": _digits,
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "llama-v3": _llama3,
    "falcon3": _llama3,
    "pixtral": _llama3,
    "smaug-bpe": _smaug,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _deepseek_r1_qwen,
    "tekken": _tekken,
}


def scheme(name: str | None) -> Scheme:
    """The scheme called ``name``. Raises ModelError, with the names that are known."""
    if name not in _SCHEMES:
        what = f"the pre-tokenizer {name!r}" if name else "no pre-tokenizer (tokenizer.ggml.pre)"
        raise ModelError(f"the GGUF file names {what}; known are {', '.join(sorted(_SCHEMES))}")
    return _SCHEMES[name]()
