"""Tokens of one choice to text, piece by piece.

Knows the bytes of each token; knows no stop string. Emits only text that no later token can change: the
beginning of a character waits for its end, and becomes U+FFFD once it is certain that none will come.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenBytes(Protocol):
    """What this needs of a tokenizer. ``strip_space``: the first space of a text was put there by the
    encoder.
    """

    special_ids: frozenset[int]
    strip_space: bool

    def token_bytes(self, token: int) -> bytes: ...


class Detokenizer:
    """Work per token is proportional to the token's own bytes. All that was pushed, joined, is ``decode`` of
    it.

    ``continues``: the tokens follow a prompt, so that a leading space is the model's own. ``shown``: special
    tokens that are not skipped.
    """

    __slots__ = ("_decoder", "_skip", "_strip", "_tokenizer")

    def __init__(
        self,
        tokenizer: TokenBytes,
        *,
        skip_special_tokens: bool = True,
        continues: bool = False,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special_tokens else frozenset()
        if shown:
            self._skip -= shown
        self._strip = tokenizer.strip_space and not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that ``token`` makes certain."""
        if token in self._skip:
            return ""
        data = self._tokenizer.token_bytes(token)
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What was held back, at the end: "" or U+FFFD."""
        return self._decoder.decode(b"", final=True)
