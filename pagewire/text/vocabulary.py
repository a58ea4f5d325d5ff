"""What a tokenizer file says, whichever format it came in.

Knows which tokens are special and how a token's piece stands for bytes; encodes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

SPACE = "▁"  # SentencePiece's visible space


class Pieces(Enum):
    """How a piece of the vocabulary stands for bytes."""

    BYTE_LEVEL = auto()  # GPT-2's alphabet: one printable character a byte
    SENTENCEPIECE = auto()  # UTF-8 with a visible space; <0xNN> is a byte


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A backend that encodes without special tokens, and the facts it does not hold.

    ``prefix`` and ``suffix`` are put around a prompt. ``added`` are the tokens that stand for their own text;
    ``special`` those that are not text. ``strip_space``: the first space of a text was put there by the
    encoder. ``names`` are the strings that a chat template may use, such as ``bos_token``.
    """

    backend: Backend
    pieces: Pieces
    added: dict[int, str]
    special: frozenset[int]
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    bos_id: int | None = None
    eos_id: int | None = None
    strip_space: bool = False
    names: dict[str, str] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)  # "default" and others by name


def byte_alphabet() -> dict[str, int]:
    """Character to byte of GPT-2's alphabet: printable Latin-1 as it is, the others from U+0100 in order.

    Source: ``bytes_to_unicode`` of GPT-2's encoder.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    alphabet = {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    return alphabet


_ALPHABET = byte_alphabet()


def piece_bytes(piece: str, pieces: Pieces) -> bytes:
    """The bytes that a piece which is no added token stands for."""
    if pieces is Pieces.BYTE_LEVEL:
        known = [_ALPHABET.get(char) for char in piece]
        return piece.encode() if None in known else bytes(b for b in known if b is not None)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace(SPACE, " ").encode()
