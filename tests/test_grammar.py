"""Grammars over the demo model's 49,152 tokens: what they permit, and that replay is all their state."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from alphabet import RECORD, regex, schema
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pagewire.engine.constraint import permitted
from pagewire.errors import RequestError
from pagewire.grammar import GrammarMatcher, Vocabulary, reason_of
from pagewire.hub import resolve
from pagewire.sampling import Grammar
from pagewire.text.tokenizer import Tokenizer, load_tokenizer

EOS = 2
SIZE = 49_152 + 100  # a model may have more logits than its tokenizer has tokens


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    return load_tokenizer(resolve("demo"))


@pytest.fixture(scope="module")
def vocabulary(demo: Tokenizer) -> Vocabulary:
    return Vocabulary.of(demo, SIZE, [EOS])


def allowed(matcher: GrammarMatcher) -> list[int]:
    return np.flatnonzero(permitted(matcher.mask(), SIZE)).tolist()


def walk(matcher: GrammarMatcher, seed: int, limit: int = 400) -> list[int]:
    """Tokens that a model without a mind of its own would choose, until there are no more."""
    pick, tokens = random.Random(seed), []
    while not matcher.stopped and len(tokens) < limit:
        tokens.append(pick.choice(allowed(matcher)))
        matcher.advance(tokens[-1:])
    assert not matcher.error
    return tokens


def text(demo: Tokenizer, tokens: list[int]) -> str:
    return b"".join(demo.token_bytes(token) for token in tokens if token != EOS).decode()


@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        (regex("(yes|no)!"), {"yes!", "no!"}),
        (Grammar("lark", 'start: "a" | "b/c" | "\\"\\n"'), {"a", "b/c", '"\n'}),
        (schema({"enum": ["x", 1.5, None, {"k": []}]}), {'"x"', "1.5", "null", '{"k":[]}', '{"k": []}'}),
        (schema({"const": "<|im_end|>"}), {'"<|im_end|>"'}),
    ],
)
def test_what_is_permitted_is_all_that_matches(
    vocabulary: Vocabulary, demo: Tokenizer, grammar: Grammar, texts: set[str]
) -> None:
    found = {text(demo, walk(vocabulary.matcher(grammar), seed)) for seed in range(40)}
    assert found == texts


def test_the_name_of_a_special_token_is_spelled_in_letters(vocabulary: Vocabulary, demo: Tokenizer) -> None:
    tokens = walk(vocabulary.matcher(schema({"const": "<|im_end|>"})), 1)
    assert not demo.special_ids & {*tokens}


def test_a_token_without_text_never_comes(vocabulary: Vocabulary, demo: Tokenizer) -> None:
    tokens = allowed(vocabulary.matcher(regex("(?s:.)*")))
    assert demo.special_ids & {*tokens} == {EOS}
    assert max(tokens) < demo.vocab_size


def test_the_end_comes_only_where_the_text_may_end(vocabulary: Vocabulary, demo: Tokenizer) -> None:
    matcher = vocabulary.matcher(regex("ab(cd)?"))
    assert EOS not in allowed(matcher)
    matcher.advance(demo.encode("ab"))
    assert EOS in allowed(matcher)
    assert not matcher.stopped
    matcher.advance(demo.encode("cd"))
    assert matcher.stopped
    assert allowed(matcher) == [EOS]


def test_what_comes_after_the_end_is_not_looked_at(vocabulary: Vocabulary, demo: Tokenizer) -> None:
    matcher = vocabulary.matcher(regex("ab"))
    matcher.advance([*demo.encode("ab"), EOS, EOS, 7])
    assert (matcher.stopped, matcher.error) == (True, "")


def test_json_is_on_one_line(vocabulary: Vocabulary, demo: Tokenizer) -> None:
    for seed in range(20):
        found = text(
            demo, walk(vocabulary.matcher(schema({"type": "array", "items": {"type": "null"}})), seed)
        )
        assert found.replace(", ", ",") == json.dumps(json.loads(found), separators=(",", ":"))


def test_a_clients_own_blanks_are_not_used(vocabulary: Vocabulary) -> None:
    theirs = {"type": "object", "x-guidance": {"whitespace_pattern": "[ ]*", "lenient": True}}
    assert allowed(vocabulary.matcher(schema(theirs))) == allowed(
        vocabulary.matcher(schema({"type": "object"}))
    )


def test_a_fork_goes_its_own_way(vocabulary: Vocabulary, demo: Tokenizer) -> None:
    one = vocabulary.matcher(regex("a[0-9]b|c"))
    other = one.fork()
    one.advance(demo.encode("a"))
    other.advance(demo.encode("c"))
    assert (one.stopped, other.stopped) == (False, True)


def test_a_token_that_does_not_match_is_the_end_of_it(vocabulary: Vocabulary, demo: Tokenizer) -> None:
    matcher = vocabulary.matcher(regex("ab"))
    matcher.advance(demo.encode("x"))
    assert matcher.error
    assert allowed(matcher) == allowed(matcher.fork()) == []
    assert not matcher.stopped


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (regex("(("), "unclosed group"),
        (regex("(?=a)b"), "look-around"),
        (regex("(a)\\1"), "backreferences"),
        (schema({"type": "strin"}), "strin"),
        (schema({"not": {}}), "not"),
        (schema([1]), "must be an object"),
        (schema(False), "Unsatisfiable"),
        (schema({"$ref": "http://127.0.0.1:9/x.json"}), "not present"),
        (schema({"type": "integer", "multipleOf": 999_999_937}), "fuel"),
        (Grammar("json_schema", "{"), "not JSON"),
        (Grammar("json_schema", "[" * 5000), "not JSON"),
        (Grammar("lark", "start: other"), "other"),
        (Grammar("lark", '{"grammars": []}'), "expecting"),
        (Grammar("lark", "start: start"), "nothing matches"),
    ],
    ids=str,
)
def test_why_a_grammar_is_refused_is_said_in_a_line(
    vocabulary: Vocabulary, grammar: Grammar, reason: str
) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        vocabulary.matcher(grammar)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_grows_beyond_the_limits_is_found_by_following_it(vocabulary: Vocabulary) -> None:
    huge = regex("((((a{1,100}){1,100}){1,100}){1,100}){1,100}")
    vocabulary.matcher(huge)
    with pytest.raises(RequestError, match="too many expressions"):
        vocabulary.probe(huge)


def test_reasons_without_the_text_around_them() -> None:
    assert reason_of("at 2(8): failed to compile JSON schema: Bad\n   1 | start") == "Bad"
    assert reason_of("at 2(8): invalid regex\n   ^\nerror: unclosed group\n") == "unclosed group"
    assert reason_of("") == "no reason given"


# --- in general ---------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "name", 'q"uote', "ü", "<|im_end|>"])
TEXTS = st.text(
    st.characters(max_codepoint=0x4FF, exclude_categories=["Cs"]), max_size=5
)  # what it can spell
SMALL = st.integers(-99, 99)
LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 12)),
    st.builds(lambda a, n: {"type": "integer", "minimum": a, "maximum": a + n}, SMALL, st.integers(0, 50)),
    st.builds(lambda values: {"enum": values}, st.lists(st.one_of(TEXTS, SMALL, st.none()), min_size=1)),
    st.sampled_from([
        {"type": "boolean"}, {"type": "null"}, {"type": "string", "pattern": "^[a-z]{2,5}(-[0-9]+)?$"},
        {"type": "string", "format": "date"}, {"type": "number", "minimum": 0, "maximum": 9},
    ]),
)  # fmt: skip


def _object(made: dict[str, dict[str, Any]], required: int) -> dict[str, Any]:
    names = [*made][:required]
    return {"type": "object", "properties": made, "required": names, "additionalProperties": False}


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(NAMES, inner, max_size=4), st.integers(0, 4)),
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 3}, inner),
        st.builds(lambda ways: {"anyOf": ways}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


@settings(max_examples=40)
@given(wanted=SCHEMAS, seed=st.integers(0, 1 << 30))
def test_whatever_is_chosen_of_what_is_permitted_validates(
    vocabulary: Vocabulary, demo: Tokenizer, wanted: dict[str, Any], seed: int
) -> None:
    tokens = walk(vocabulary.matcher(schema(wanted)), seed, limit=3000)
    Draft202012Validator(wanted).validate(json.loads(text(demo, tokens)))


@settings(max_examples=20)
@given(wanted=SCHEMAS, seed=st.integers(0, 1 << 30))
def test_replay_finds_the_same_masks_everywhere(
    vocabulary: Vocabulary, wanted: dict[str, Any], seed: int
) -> None:
    fresh, stepped = vocabulary.matcher(schema(wanted)), vocabulary.matcher(schema(wanted))
    tokens = walk(fresh.fork(), seed, limit=40)
    for at in range(len(tokens) + 1):
        again = fresh.fork()
        again.advance(tokens[:at])
        assert again.stopped == stepped.stopped
        assert np.array_equal(again.mask(), stepped.mask())
        stepped.advance(tokens[at : at + 1])


def test_a_record_comes_out_right(vocabulary: Vocabulary, demo: Tokenizer) -> None:
    tokens = walk(vocabulary.matcher(schema(RECORD)), 4)
    assert Draft202012Validator(RECORD).is_valid(json.loads(text(demo, tokens)))
