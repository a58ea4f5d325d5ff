"""The grammars of one process that computes: compiled beside its steps, and kept for the next request.

A thread compiles what ``prepare`` announced while the prompt is read or its KV arrives; the first to come
also loads the tokenizer, which a node needs for nothing else. Knows when and how often; what a grammar is,
``pagewire.grammar`` knows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np

from pagewire.errors import ModelError, RequestError
from pagewire.grammar import GrammarMatcher, Mask, Vocabulary
from pagewire.hub import ModelSource
from pagewire.sampling import Grammar
from pagewire.text.tokenizer import load_tokenizer

KEPT = 64
WAIT_S = 10.0  # for a grammar that is asked for: a step waits so long at most


def grammars_of(source: ModelSource, vocab_size: int, eos_token_ids: Sequence[int]) -> Grammars:
    return Grammars(lambda: Vocabulary.of(load_tokenizer(source), vocab_size, eos_token_ids))


class Grammars:
    def __init__(self, load: Callable[[], Vocabulary]) -> None:
        """``load`` is called once, by the thread."""
        self._load = load
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._compiled: OrderedDict[Grammar, Future[GrammarMatcher]] = OrderedDict()

    def prepare(self, grammar: Grammar) -> None:
        """It will be asked for soon. Does not wait."""
        self._future(grammar)

    def check(self, grammar: Grammar) -> None:
        """Wait for it. Raises RequestError if it cannot be used here."""
        try:
            self._future(grammar).result(WAIT_S)
        except ModelError as error:
            raise RequestError(f"grammars are not supported here: {error}", param="grammar") from error
        except TimeoutError as error:
            raise RequestError("the grammar takes too long to compile", param="grammar") from error

    def matcher(self, grammar: Grammar, output: Sequence[int]) -> GrammarMatcher | Unusable:
        """Behind the tokens of ``output``."""
        try:
            self.check(grammar)
        except RequestError as error:
            return Unusable(str(error))
        matcher = self._future(grammar).result().fork()
        matcher.advance(output)
        return matcher

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return self._load()

    def _future(self, grammar: Grammar) -> Future[GrammarMatcher]:
        """The least recently used goes when there are too many."""
        if grammar not in self._compiled:
            self._compiled[grammar] = self._thread.submit(lambda: self._vocabulary.matcher(grammar))
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)[1].cancel()
        self._compiled.move_to_end(grammar)
        return self._compiled[grammar]


class Unusable:
    """In place of the matcher of a grammar that cannot be used: permits nothing."""

    stopped = False

    def __init__(self, error: str) -> None:
        self.error = error

    def advance(self, tokens: Iterable[int]) -> None:
        """There is nowhere to go."""

    def mask(self) -> Mask:
        return np.zeros(0, np.int32)

    def fork(self) -> Unusable:
        return self
