"""What the output must match, as masks: which tokens may come after those that are there.

Stands on llguidance, which parses lazily: a grammar is compiled in about a millisecond, and what a state
permits is found when it is asked for. Knows grammars, a vocabulary's bytes and bit masks; knows no sequence,
no logits and no request.

JSON comes on one line, with at most one blank after a comma or a colon: where JSON allows any blanks, a small
model may write them for ever. Which tokens spell what the grammar forces is left to the model
(``no_forcing``): to tokenise it again could take a text such as "<|im_end|>" for the token of that name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark
from numpy.typing import NDArray

from pagewire.errors import RequestError
from pagewire.sampling import Grammar
from pagewire.text.tokenizer import Tokenizer

Mask = NDArray[np.int32]  # bit i of the little-endian words: token i may come

PROBED = 16  # tokens
MAX_REASON = 300  # characters of why a grammar is refused
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # some 20 ms of compiling
    step_lexer_fuel=100_000,  # some 7 ms of one mask, where 50 us are usual
    step_max_items=25_000,
    max_lexer_states=60_000,  # at about 0.5 kB each
    max_grammar_size=200_000,
    verbose_errors=False,  # those quote the whole grammar and the parser's state
)
_STRIDE = 7919  # a prime: a walk that is not always the first token
_OPTIONS = '%llguidance {"no_forcing": true}\n'
_BLANKS = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def source_of(grammar: Grammar) -> str:
    """``grammar`` in llguidance's Lark. Raises RequestError if it is a JSON schema that is not JSON."""
    match grammar.kind:
        case "json_schema":
            return f"{_OPTIONS}start: %json {json.dumps(_schema(grammar.text))}"
        case "regex":
            return f"{_OPTIONS}start: /{regex_to_lark(grammar.text)}/"
    return _OPTIONS + grammar.text


def _schema(text: str) -> object:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError("the JSON schema is not JSON", param="grammar") from error
    return schema | {"x-guidance": _BLANKS} if isinstance(schema, dict) else schema


class _Tokens:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Iterable[int], eos: Sequence[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = sorted(special)
        self.eos_token_id = eos[0] if eos else None  # None: it adds a token of its own behind ours

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError("nothing is tokenised: no_forcing")


class Vocabulary:
    """The tokens that a model can choose, prepared for matching: a trie of their bytes."""

    def __init__(self, tokens: Sequence[bytes], special: Iterable[int], eos: Sequence[int]) -> None:
        """``tokens`` in the order of their ids, b"" for one that stands for nothing; ``special`` stand for no
        text, and of those ``eos`` come where the grammar may end.
        """
        self._tokens = LLTokenizer(_Tokens(tokens, special, eos), eos_token=list(eos) or None)  # type: ignore[arg-type]
        self._words = -(-self._tokens.vocab_size // 32)

    @classmethod
    def of(cls, tokenizer: Tokenizer, size: int, eos: Sequence[int]) -> Vocabulary:
        """Of a model with ``size`` logits a row, whether the tokenizer has fewer tokens or more."""
        known = min(size, tokenizer.vocab_size)
        tokens = [tokenizer.token_bytes(token) for token in range(known)] + [b""] * (size - known)
        special = [token for token in tokenizer.special_ids if token < size]
        return cls(tokens, special, [token for token in eos if token < size])

    def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """At the beginning of the output. Raises RequestError if ``grammar`` is not one, or beyond LIMITS."""
        found = LLMatcher(self._tokens, source_of(grammar), log_level=0, limits=LIMITS)
        if found.is_error():
            raise RequestError(reason_of(found.get_error()), param="grammar")
        matcher = GrammarMatcher(found, self._words)
        matcher.mask()  # some faults show only here
        if matcher.error:
            raise RequestError(matcher.error, param="grammar")
        return matcher

    def probe(self, grammar: Grammar, tokens: int = PROBED) -> None:
        """Follow ``grammar`` for some tokens that it permits: what goes beyond LIMITS mostly does so at once.
        Raises RequestError.
        """
        matcher = self.matcher(grammar)
        for step in range(tokens):
            may = np.flatnonzero(np.unpackbits(matcher.mask().view(np.uint8), bitorder="little"))
            if matcher.error:
                raise RequestError(matcher.error, param="grammar")
            matcher.advance([int(may[step * _STRIDE % len(may)])])
            if matcher.stopped:
                return


class GrammarMatcher:
    """One output on its way. ``error``: why it cannot go on, if so; then no token may come."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self.error = ""
        self._matcher = matcher
        self._mask: Mask = np.zeros(words, np.int32)

    @property
    def stopped(self) -> bool:
        """True if the output is complete and nothing but its end can come."""
        return not self.error and self._matcher.is_stopped()

    def advance(self, tokens: Iterable[int]) -> None:
        """``tokens`` came. What comes after the end is not looked at."""
        for token in tokens:
            if self.error or self._matcher.is_stopped():
                return
            if not self._matcher.consume_token(token):
                self._fail()

    def mask(self) -> Mask:
        """Which tokens may come next: [ceil(V / 32)] words, good until the next call."""
        if not self.error:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            if self._matcher.is_error():
                self._fail()
        return self._mask

    def fork(self) -> GrammarMatcher:
        other = GrammarMatcher(self._matcher.deep_copy(), len(self._mask))
        other.error = self.error
        return other

    def _fail(self) -> None:
        self.error = f"the grammar cannot be followed: {reason_of(self._matcher.get_error())}"
        self._mask[:] = 0


def reason_of(error: str) -> str:
    """One line of llguidance's many: without what it quotes, and without where in our own text that was."""
    lines = [line.strip() for line in error.splitlines() if line.strip()] or ["no reason given"]
    told = next((line for line in lines if line.startswith("error: ")), lines[0])
    head, colon, rest = told.partition(": ")
    reason = rest if colon and (head == "error" or _is_place(head)) else told
    if "NoExtensionBias" in reason:
        reason = "nothing matches it"
    return reason.removeprefix("failed to compile JSON schema: ")[:MAX_REASON]


def _is_place(head: str) -> bool:
    """Such as "at 2(8)"."""
    return head.removeprefix("at ").replace("(", "").replace(")", "").isdecimal()
