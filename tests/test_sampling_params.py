"""Ranges are checked at the door, each refusal naming its field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.errors import RequestError
from pagewire.sampling import SamplingParams, check_vocab

FIELDS = sorted(SamplingParams.__dataclass_fields__)

LIMITS: dict[str, tuple[float, float]] = {
    "n": (1, 16),
    "temperature": (0.0, 100.0),
    "top_k": (-1, 1 << 30),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.001, 100.0),
    "seed": (-(1 << 63), (1 << 63) - 1),
    "logprobs": (0, 20),
    "prompt_logprobs": (0, 20),
}


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_both_limits_are_inside(name: str) -> None:
    for limit in LIMITS[name]:
        assert getattr(SamplingParams(**{name: limit}), name) == limit


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_just_beyond_either_limit_is_refused(name: str) -> None:
    low, high = LIMITS[name]
    step = 1 if isinstance(low, int) else 0.0001
    for value in (low - step, high + step):
        with pytest.raises(RequestError) as caught:
            SamplingParams(**{name: value})
        assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 10**400),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", None),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("n", 1.0),
        ("n", True),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("stop", ("",)),
        ("stop", ("a",) * 17),
        ("stop", (1,)),
        ("stop", 5),
        ("stop", None),
        ("stop", ("\ud800",)),
        ("stop", ("a" * 1025,)),
        ("stop", ("a", "ä" * 1025)),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", ("a",)),
        ("stop_token_ids", "ab"),
        ("stop_token_ids", (True,)),
        ("stop_token_ids", range(2000)),
        ("stop_token_ids", list(range(2000))),
        ("logit_bias", None),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {"1": 0.0}),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
        ("ignore_eos", 1),
        ("include_stop_str_in_output", "yes"),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_refuses_and_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name


@given(
    st.sampled_from(FIELDS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda v: (
            st.lists(v, max_size=3) | st.dictionaries(st.integers(-3, 3) | st.text(max_size=1), v, max_size=3)
        ),
        max_leaves=5,
    ),
)
@settings(deadline=None, max_examples=600)
def test_any_value_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    refused_for = name
    try:
        SamplingParams(**{name: value})
    except RequestError as error:
        refused_for = error.param or ""
    # max_tokens and min_tokens may also be refused together
    assert refused_for in (name, "min_tokens")


def test_min_tokens_above_max_tokens_is_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError, match=r"\(9\).*\(3\)"):
        SamplingParams(min_tokens=9, max_tokens=3)
    assert SamplingParams(min_tokens=9, max_tokens=None).min_tokens == 9


def test_one_stop_string_and_lists_become_tuples() -> None:
    params = SamplingParams(stop="END", stop_token_ids=[1, 2])  # type: ignore[arg-type]
    assert (params.stop, params.stop_token_ids) == (("END",), (1, 2))


def test_a_stop_string_of_1024_characters_is_taken() -> None:
    assert SamplingParams(stop=("ä" * 1024,)).stop == ("ä" * 1024,)


@pytest.mark.parametrize(("temperature", "greedy"), [(0.0, True), (1e-6, True), (1e-5, False), (1.0, False)])
def test_greedy_is_temperature_zero_or_nearly(temperature: float, greedy: bool) -> None:
    assert SamplingParams(temperature=temperature).greedy is greedy


@pytest.mark.parametrize(
    ("params", "penalised"),
    [
        ({}, False),
        ({"logit_bias": {1: 1.0}, "top_p": 0.5}, False),
        ({"presence_penalty": 0.1}, True),
        ({"frequency_penalty": -0.1}, True),
        ({"repetition_penalty": 1.1}, True),
    ],
)
def test_penalised(params: dict[str, Any], penalised: bool) -> None:
    assert SamplingParams(**params).penalised is penalised


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [("logit_bias", {99: 1.0}, {3: 1.0, 100: 1.0}), ("stop_token_ids", (99,), (3, 100))],
)
def test_tokens_beyond_the_vocabulary_are_refused(name: str, inside: Any, outside: Any) -> None:
    check_vocab(SamplingParams(**{name: inside}), 100)
    with pytest.raises(RequestError, match="100") as caught:
        check_vocab(SamplingParams(**{name: outside}), 100)
    assert caught.value.param == name
