"""Constrained output on a tiny model: it matches, whatever the batch, the pages and the other parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from alphabet import EOS, RECORD, regex, schema, text_of, vocabulary
from jsonschema import Draft202012Validator
from runs import Answers, run
from test_engine import engine
from tiny import model_folder, sequence

from pagewire.engine.constraint import Mask, permitted
from pagewire.engine.engine import Engine
from pagewire.errors import RequestError
from pagewire.grammars import Grammars
from pagewire.rng import uniform
from pagewire.sampling import Grammar, SamplingParams

Work = list[tuple[str, list[int], SamplingParams]]
GRAMMARS = [schema(RECORD), regex("[a-z]{3,30}(, [a-z]{3,30}){2}"), regex("(ab?c*)+|x{40}"), None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny").path


def made(folder: Path, **sizes: int | bool) -> Engine:
    built = engine(folder, **sizes)  # type: ignore[arg-type]
    built.grammars = Grammars(vocabulary)
    return built


def work(max_tokens: int = 60) -> Work:
    """Some with two choices, some with penalties, biases and a least length, and some that are free."""
    requests: Work = []
    for i in range(16):
        tokens = [int(uniform(3, i, j) * 90) + 3 for j in range(1 + int(uniform(2, 0, i) * 50))]
        params = SamplingParams(
            temperature=0.0 if i % 5 == 0 else 1.0,
            n=2 if i % 4 == 1 else 1,
            max_tokens=max_tokens,
            min_tokens=20 if i % 3 == 0 else 0,
            frequency_penalty=0.4 if i % 6 == 0 else 0.0,
            logit_bias={EOS: -100.0, 70: 5.0} if i % 7 == 0 else {},
            logprobs=1 if i % 5 == 2 else None,
            grammar=GRAMMARS[i % len(GRAMMARS)],
        )
        requests.append((f"r{i}", tokens, params))
    return requests


def fits(grammar: Grammar, text: str, finish: str) -> bool:
    """Whole if it has come to its end; else there was no room for more."""
    if finish == "length":
        return True
    if grammar.kind == "regex":
        return re.fullmatch(grammar.text, text) is not None
    return Draft202012Validator(json.loads(grammar.text)).is_valid(json.loads(text))


@pytest.fixture(scope="module")
def alone(folder: Path) -> Answers:
    answers: Answers = {}
    for item in work():
        answers |= run(made(folder), [item])
    return answers


def test_what_ends_by_itself_matches(alone: Answers) -> None:
    grammars = {name: params.grammar for name, _, params in work()}
    ended = 0
    for (name, _), (tokens, finish) in alone.items():
        if (grammar := grammars[name]) is not None:
            text = text_of(tokens)
            assert fits(grammar, text, finish), text
            ended += finish == "stop"
    assert ended > 8


@pytest.mark.parametrize("ahead", [False, True])
def test_a_batch_changes_nothing(folder: Path, alone: Answers, ahead: bool) -> None:
    assert run(made(folder, ahead=ahead, page_size=8, pages=512), work()) == alone


def test_preemption_changes_nothing(folder: Path, alone: Answers) -> None:
    small = made(folder, pages=24, page_size=8, budget=32, seqs=12)
    assert run(small, work()) == alone
    assert small.preemptions > 3


# --- how it ends --------------------------------------------------------------------------------------------


def only(folder: Path, **params: object) -> tuple[str, list[int], str]:
    """Text, tokens and finish reason of one greedy answer."""
    chosen = SamplingParams(temperature=0.0, max_tokens=12, **params)  # type: ignore[arg-type]
    ((tokens, finish),) = run(made(folder), [("r", [5, 6, 7], chosen)]).values()
    return text_of(tokens), tokens, finish


def test_a_complete_answer_ends_without_another_step(folder: Path) -> None:
    assert only(folder, grammar=regex("ab")) == ("ab", [67, 68], "stop")


def test_an_answer_that_is_complete_with_its_last_token_did_not_run_out(folder: Path) -> None:
    assert only(folder, grammar=regex("a{12}"))[2] == "stop"
    assert only(folder, grammar=regex("a{13}"))[2] == "length"


def test_an_answer_may_end_where_the_grammar_lets_it(folder: Path) -> None:
    text, tokens, finish = only(folder, grammar=regex("a+"), logit_bias={EOS: 100.0})
    assert (text, tokens[-1], finish) == ("a", EOS, "stop")


def test_the_least_length_yields_to_a_grammar_that_is_complete(folder: Path) -> None:
    assert only(folder, grammar=regex("ab"), min_tokens=9) == ("ab", [67, 68], "stop")


def test_the_least_length_keeps_the_end_away_as_long_as_something_else_may_come(folder: Path) -> None:
    text, _, _ = only(folder, grammar=regex("a{2,8}"), min_tokens=6, logit_bias={EOS: 100.0})
    assert text == "a" * 6


def test_a_stop_token_that_the_least_length_bans_comes_where_nothing_else_may(folder: Path) -> None:
    assert only(folder, grammar=regex("ab"), min_tokens=9, stop_token_ids=[67])[1] == [67]


def test_with_ignore_eos_a_complete_answer_is_filled_up_with_ends(folder: Path) -> None:
    assert only(folder, grammar=regex("ab"), ignore_eos=True) == ("ab", [67, 68, *[EOS] * 10], "length")


def test_a_bias_against_all_that_may_come_does_not_help(folder: Path) -> None:
    assert only(folder, grammar=regex("ab"), logit_bias={67: -100.0})[0] == "ab"


def test_log_probabilities_are_those_before_the_grammar(folder: Path) -> None:
    results = []
    for grammar in (None, regex("[a-z]b")):
        one = made(folder)
        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=3, grammar=grammar)
        one.admit(sequence([5, 6, 7], params))
        out = one.step()
        one.pool.release(out.finished[0].lease)
        results.append(out.tokens[0].sampled)
    assert results[0].top == results[1].top


# --- faults -------------------------------------------------------------------------------------------------


def test_an_engine_without_grammars_refuses_them(folder: Path) -> None:
    plain = engine(folder)
    plain.grammars = None
    with pytest.raises(RequestError, match="not supported") as caught:
        plain.admit(sequence([5], SamplingParams(grammar=regex("a"))))
    assert caught.value.param == "grammar"


class Broken:
    """A matcher that fails at its third mask."""

    stopped = False

    def __init__(self) -> None:
        self.error, self._left = "", 3

    def advance(self, tokens: Iterable[int]) -> None: ...

    def mask(self) -> Mask:
        self._left -= 1
        if not self._left:
            self.error = "it broke"
        return np.full(3, -1 if self._left else 0, np.int32)

    def fork(self) -> Broken:
        return self


class AllBroken:
    def check(self, grammar: Grammar) -> None: ...

    def prepare(self, grammar: Grammar) -> None: ...

    def matcher(self, grammar: Grammar, output: Sequence[int]) -> Broken:
        return Broken()


@pytest.mark.parametrize("ahead", [False, True])
def test_a_matcher_that_fails_ends_its_own_request_alone(folder: Path, ahead: bool) -> None:
    free = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    expected = run(engine(folder), [("free", [8, 9], free)])
    one = engine(folder, ahead=ahead)
    one.grammars = AllBroken()
    one.admit(sequence([5, 6], SamplingParams(max_tokens=8, grammar=regex("a*"), ignore_eos=True), "held"))
    one.admit(sequence([8, 9], free, "free"))
    tokens: dict[str, list[int]] = {"held": [], "free": []}
    ends = {}
    while one.busy:
        out = one.step()
        for token in out.tokens:
            tokens[token.seq.request].append(token.sampled.token)
        for finished in out.finished:
            one.pool.release(finished.lease)
            ends[finished.seq.request] = finished.code, finished.error
    assert ends == {"held": ("grammar_failed", "it broke"), "free": ("", "")}
    assert tokens["free"] == expected["free", 0][0]
    assert len(tokens["held"]) == 2


@pytest.mark.parametrize("words", [0, 1, 3])
def test_tokens_beyond_a_mask_may_not_come(words: int) -> None:
    allowed = permitted(np.full(words, -1, np.int32), 80)
    assert allowed.tolist() == [token < 32 * words for token in range(80)]
