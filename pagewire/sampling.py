"""How the next token is to be chosen: the parameters of one request, checked once at the door.

Knows ranges and defaults; knows no logits. The field names and meanings are those of vLLM's
``SamplingParams`` and, where OpenAI has the field, OpenAI's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pagewire.errors import RequestError

MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_STOP = 16
MAX_STOP_CHARS = 1024  # of one stop string
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKEN_IDS = 1024
MAX_GRAMMAR_CHARS = 64 << 10
GRAMMARS = ("json_schema", "regex", "lark")


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must match: ``text`` is a JSON schema, a regular expression, or a grammar in
    llguidance's dialect of Lark, as ``kind`` says. The matcher's state is the replay of the output tokens.
    """

    kind: str  # one of GRAMMARS
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters of one request.

    ``temperature`` 0 means greedy. ``top_k`` 0 or -1 means no limit. ``max_tokens`` None means as far as the
    context goes. ``seed`` None means that one is drawn at admission; the draw for choice ``c`` at absolute
    position ``p`` depends on (seed, c, p) alone. ``logprobs`` k asks for the log-probability of each chosen
    token and of the k most likely ones; ``prompt_logprobs`` the same for the prompt. Stop strings are not
    kept in the text unless ``include_stop_str_in_output``. ``grammar``: each choice's text matches it.
    Raises RequestError with the field's name.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _items("stop", self.stop))
        object.__setattr__(self, "stop_token_ids", _items("stop_token_ids", self.stop_token_ids))
        _whole("n", self.n, 1, MAX_CHOICES)
        _real("temperature", self.temperature, 0.0, 100.0)
        _real("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise RequestError("top_p must be greater than 0", param="top_p")
        _whole("top_k", self.top_k, -1, 1 << 30)
        _real("min_p", self.min_p, 0.0, 1.0)
        _real("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _real("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _real("repetition_penalty", self.repetition_penalty, 1e-3, 100.0)
        if self.seed is not None:
            _whole("seed", self.seed, -(1 << 63), (1 << 63) - 1)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1, 1 << 30)
        _whole("min_tokens", self.min_tokens, 0, 1 << 30)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})", param="min_tokens"
            )
        if len(self.stop) > MAX_STOP or not all(map(_is_text, self.stop)):
            raise RequestError(f"stop must be at most {MAX_STOP} non-empty strings", param="stop")
        if any(len(stop) > MAX_STOP_CHARS for stop in self.stop):
            raise RequestError(f"a stop string may have at most {MAX_STOP_CHARS} characters", param="stop")
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise RequestError(
                f"stop_token_ids may name at most {MAX_STOP_TOKEN_IDS} tokens", param="stop_token_ids"
            )
        for token in self.stop_token_ids:
            _whole("stop_token_ids", token, 0, 1 << 31)
        for name in ("logprobs", "prompt_logprobs"):
            if (k := getattr(self, name)) is not None:
                _whole(name, k, 0, MAX_LOGPROBS)
        for name in ("ignore_eos", "include_stop_str_in_output"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} must be true or false", param=name)
        if self.grammar is not None:
            _check_grammar(self.grammar)
        if not isinstance(self.logit_bias, dict):
            raise RequestError("logit_bias must map token ids to numbers", param="logit_bias")
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise RequestError(f"logit_bias may name at most {MAX_LOGIT_BIAS} tokens", param="logit_bias")
        for token, bias in self.logit_bias.items():
            _whole("logit_bias", token, 0, 1 << 31)
            _real("logit_bias", bias, -100.0, 100.0)

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5

    @property
    def penalised(self) -> bool:
        """True if the choice depends on which tokens came before."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0


def check_vocab(params: SamplingParams, vocab_size: int) -> None:
    """Raise RequestError if ``params`` names a token that a row of ``vocab_size`` logits does not have."""
    for name, tokens in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
        if any(token >= vocab_size for token in tokens):
            raise RequestError(f"{name} has token ids outside [0, {vocab_size})", param=name)


def _check_grammar(grammar: object) -> None:
    if not isinstance(grammar, Grammar) or grammar.kind not in GRAMMARS:
        raise RequestError(f"a grammar is one of {', '.join(GRAMMARS)}", param="grammar")
    if not _is_text(grammar.text) or len(grammar.text) > MAX_GRAMMAR_CHARS:
        raise RequestError(f"a grammar has 1 to {MAX_GRAMMAR_CHARS} characters", param="grammar")


def _items(name: str, value: object) -> tuple[object, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, tuple | list):
        raise RequestError(f"{name} must be a list", param=name)
    return tuple(value)


def _is_text(value: object) -> bool:
    # a lone surrogate, which JSON can spell, has no bytes and so could not travel
    return isinstance(value, str) and value != "" and not any("\ud800" <= c <= "\udfff" for c in value)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high}", param=name)


def _real(name: str, value: object, low: float, high: float) -> None:
    # NaN fails the comparison
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}", param=name)
