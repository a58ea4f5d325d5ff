"""What the engine asks of whoever knows grammars: masks over the vocabulary, and nothing of text.

A matcher's state is the replay of the output tokens, so it is never sent or kept: a sequence that was handed
over, that moved or that branched gets another one from its tokens. Knows sequences; knows no logits and no
grammar's language.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pagewire.sampling import Grammar

if TYPE_CHECKING:
    from pagewire.engine.sequence import Sequence

Mask = NDArray[np.int32]  # bit i of the little-endian words: token i may come
GRAMMAR_FAILED = "grammar_failed"


class Matcher(Protocol):
    """One output on its way. ``error``: why it cannot go on, if so; then its mask permits nothing."""

    error: str

    @property
    def stopped(self) -> bool:
        """True if the output is complete and nothing but its end can come."""
        ...

    def advance(self, tokens: Iterable[int]) -> None: ...

    def mask(self) -> Mask:
        """Good until the next call. Tokens beyond it may not come."""
        ...

    def fork(self) -> Matcher: ...


class Grammars(Protocol):
    def check(self, grammar: Grammar) -> None:
        """Waits until it is known. Raises RequestError if it cannot be used."""
        ...

    def prepare(self, grammar: Grammar) -> None:
        """It will be asked for soon. Does not wait."""
        ...

    def matcher(self, grammar: Grammar, output: Many[int]) -> Matcher:
        """Behind ``output``. One that fails has an ``error``."""
        ...


def matcher_of(seq: Sequence, grammars: Grammars | None) -> Matcher | None:
    """That of ``seq`` behind its last token; None if it may write what it likes."""
    if seq.sampling.grammar is not None and seq.matcher is None:
        assert grammars is not None, "checked at admission"
        seq.matcher = grammars.matcher(seq.sampling.grammar, seq.tokens[seq.num_prompt :])
    return seq.matcher


def advanced(matcher: Matcher | None, tokens: Many[int]) -> list[Matcher | None]:
    """``matcher`` behind each of ``tokens``, of which each goes its own way."""
    if matcher is None:
        return [None] * len(tokens)
    matchers: list[Matcher | None] = [matcher, *(matcher.fork() for _ in tokens[1:])]
    for each, token in zip(matchers, tokens, strict=True):
        assert each is not None
        each.advance([token])
    return matchers


def permitted(mask: Mask, vocab_size: int) -> NDArray[np.bool_]:
    """[vocab_size] whether each token may come."""
    told = np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab_size]
    allowed = np.zeros(vocab_size, np.bool_)  # not by unpackbits' count: of an empty array it gives any bits
    allowed[: len(told)] = told
    return allowed
