"""The sampler against a plain float64 reference, and the promises about batches, ties and broken rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.sampling_triton import DeviceRows
from pagewire.engine import sampler
from pagewire.engine.sampler import (
    HostRows,
    InvalidLogits,
    Sampled,
    SampleRow,
    device_rows,
    sample,
    sample_ahead,
    score_prompt,
)
from pagewire.engine.sequence import Sequence
from pagewire.messages import RequestId
from pagewire.rng import uniform
from pagewire.sampling import SamplingParams

GREEDY = {"temperature": 0.0}


@pytest.fixture(autouse=True, params=["native", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs twice: with the C++ kernels and with numpy alone."""
    if request.param == "numpy":
        monkeypatch.setattr(sampler.native_library, "available", lambda: False)
    elif not sampler.native_library.available():
        pytest.skip("no C++ compiler when this was installed")


def row(tokens: list[int] | None = None, prompt: int = 1, **params: Any) -> SampleRow:
    """``seed``, ``choices`` and ``banned`` are the row's own, the rest sampling parameters."""
    own = {k: params.pop(k) for k in ("seed", "choices", "banned") if k in params}
    tokens = [0] if tokens is None else tokens
    own = {"seed": 1, "choices": [0]} | own
    return SampleRow(SamplingParams(**params), tokens=tokens, num_prompt=prompt, **own)


def one(logits: list[float] | np.ndarray, r: SampleRow) -> list[Sampled]:
    (result,) = sample(torch.tensor(np.asarray(logits), dtype=torch.float32)[None], [r])
    assert not isinstance(result, InvalidLogits)
    return result


def tokens_of(result: list[Sampled] | InvalidLogits) -> list[int]:
    assert not isinstance(result, InvalidLogits)
    return [s.token for s in result]


# --- the reference: every step in the order of the documentation, by full sorts ---


def reference_probs(logits: np.ndarray, r: SampleRow) -> np.ndarray:
    """The exact distribution [V] that a token is drawn from."""
    p, x = r.params, logits.astype(np.float64)
    for t in r.banned:
        x[t] = -np.inf
    for t, b in p.logit_bias.items():
        x[t] += b
    for t in set(r.tokens):
        x[t] = x[t] / p.repetition_penalty if x[t] > 0 else x[t] * p.repetition_penalty
    output = list(r.tokens[r.num_prompt :])
    for t in set(output):
        x[t] -= p.frequency_penalty * output.count(t)
        x[t] -= p.presence_penalty
    if p.greedy:
        return np.eye(len(x))[int(np.argmax(x))]
    x = x / p.temperature
    prob = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    prob[prob < p.min_p * prob.max()] = 0.0
    if p.top_k > 0:
        prob[np.argsort(-prob, kind="stable")[p.top_k :]] = 0.0
    prob /= prob.sum()
    if p.top_p < 1.0:
        order = np.argsort(-prob, kind="stable")
        before = np.concatenate([[0.0], np.cumsum(prob[order])[:-1]])
        prob[order[before >= p.top_p]] = 0.0
    return prob / prob.sum()


def reference_token(logits: np.ndarray, r: SampleRow, choice: int) -> int:
    probs = reference_probs(logits, r)
    if r.params.greedy:
        return int(np.argmax(probs))
    return int(np.argmax(np.cumsum(probs) > uniform(r.seed, choice, len(r.tokens))))


FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 0.01},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.999999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 20, "min_p": 0.05},
    {"temperature": 1.2, "top_k": 30, "top_p": 0.7, "min_p": 0.02},
    {"temperature": 5.0, "top_p": 0.3, "min_p": 0.01},
]
PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"presence_penalty": 1.5},
    {"frequency_penalty": -0.8},
    {"presence_penalty": -1.0, "frequency_penalty": 0.4, "repetition_penalty": 1.2},
    {"logit_bias": {3: 4.0, 17: -100.0, 40: 2.5}, "repetition_penalty": 2.0},
    {"banned": (2, 3, 5), "repetition_penalty": 1.1, "logit_bias": {5: 100.0}},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("vocab", [50, 3000])
def test_equals_the_reference_token_for_token(vocab: int, filters: dict[str, Any]) -> None:
    g = np.random.default_rng(vocab)
    logits = (g.standard_normal((60, vocab)) * g.uniform(0.1, 6, (60, 1))).astype(np.float32)
    rows = [row(seed=i, tokens=[0] * (i + 1), choices=[0, 2], **filters) for i in range(60)]
    expected = [[reference_token(x, r, c) for c in r.choices] for x, r in zip(logits, rows, strict=True)]
    assert [tokens_of(s) for s in sample(torch.from_numpy(logits), rows)] == expected


@pytest.mark.parametrize("penalties", PENALTIES, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_penalties_equal_the_reference(penalties: dict[str, Any], temperature: float) -> None:
    g = np.random.default_rng(5)
    logits = (g.standard_normal((60, 50)) * 2).astype(np.float32)
    rows = [
        row(seed=i, tokens=g.integers(0, 50, 30).tolist(), prompt=12, temperature=temperature, **penalties)
        for i in range(60)
    ]
    expected = [[reference_token(x, r, 0)] for x, r in zip(logits, rows, strict=True)]
    assert [tokens_of(s) for s in sample(torch.from_numpy(logits), rows)] == expected


@pytest.mark.parametrize("filters", [*FILTERS[:4], *FILTERS[7:11], *FILTERS[12:]], ids=str)
def test_frequencies_follow_the_exact_distribution(filters: dict[str, Any]) -> None:
    logits = np.linspace(-1.5, 1.5, 12, dtype=np.float32)
    probs = reference_probs(logits, row(**filters))
    draws = 6000 if sampler.native_library.available() else 1500
    params = SamplingParams(**filters)
    rows = [SampleRow(params, seed, [0], [0], 1) for seed in range(draws)]
    result = sample(torch.from_numpy(logits).expand(draws, -1), rows)
    counts = np.bincount([tokens_of(s)[0] for s in result], minlength=12)
    assert counts[probs == 0].sum() == 0
    expected = probs[probs > 0] * draws
    statistic = float(((counts[probs > 0] - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    assert statistic <= freedom + 4.5 * math.sqrt(2 * freedom) + 3


# --- meaning of single parameters ---


def test_greedy_takes_the_lowest_of_equals() -> None:
    assert one([1, 3, 3, 3], row(**GREEDY))[0].token == 1


def test_top_k_keeps_the_lower_of_equals() -> None:
    rows = [row(seed=s, top_k=2) for s in range(50)]
    result = sample(torch.tensor([0.0, 5.0, 4.0, 4.0, 4.0]).expand(50, -1), rows)
    assert {tokens_of(r)[0] for r in result} == {1, 2}


def test_top_p_keeps_the_lower_of_equals() -> None:
    rows = [row(seed=s, top_p=0.5) for s in range(50)]
    result = sample(torch.zeros(50, 4), rows)
    assert {tokens_of(r)[0] for r in result} == {0, 1}


def test_top_k_beyond_the_vocabulary_is_no_limit() -> None:
    logits = [1.0, 2.0, 3.0]
    assert one(logits, row(top_k=99, seed=4)) == one(logits, row(seed=4))


def test_repetition_penalty_counts_the_prompt_and_presence_does_not() -> None:
    assert one([2.0, 1.5], row([0], 1, repetition_penalty=2.0, **GREEDY))[0].token == 1
    assert one([2.0, 1.5], row([0], 1, presence_penalty=2.0, frequency_penalty=2.0, **GREEDY))[0].token == 0
    assert one([2.0, 1.5], row([0], 0, presence_penalty=2.0, **GREEDY))[0].token == 1


def test_repetition_penalty_multiplies_a_negative_logit() -> None:
    assert one([-1.0, -1.5], row([0], repetition_penalty=2.0, **GREEDY))[0].token == 1


def test_logit_bias_comes_before_the_repetition_penalty() -> None:
    # (1 + 3) / 4 < 2, and 1 / 4 + 3 > 2
    assert one([1.0, 2.0], row([0], logit_bias={0: 3.0}, repetition_penalty=4.0, **GREEDY))[0].token == 1


def test_the_logits_are_left_alone() -> None:
    logits = torch.arange(8.0).reshape(2, 4)
    before = logits.clone()
    sample(logits, [row(logit_bias={1: 5.0}, repetition_penalty=2.0, banned=(3,)), row(top_p=0.5)])
    assert torch.equal(logits, before)


def sequence(params: SamplingParams, output: int) -> Sequence:
    tokens = [1] * (4 + output)
    return Sequence(RequestId("r"), 1, [0, 1], tokens, 4, params, 77, 100)


@pytest.mark.parametrize(("output", "token"), [(0, 0), (1, 0), (2, 3)])
def test_min_tokens_masks_end_and_stop_tokens(output: int, token: int) -> None:
    params = SamplingParams(min_tokens=2, stop_token_ids=(2,), temperature=0.0)
    seq = sequence(params, output)
    result = one([1.0, 0.0, 2.0, 3.0], SampleRow.of(seq, (3, 999)))
    assert [s.token for s in result] == [token, token]


def test_a_row_made_of_a_sequence_draws_at_its_length() -> None:
    seq = sequence(SamplingParams(), 3)
    r = SampleRow.of(seq, (0,))
    assert r == SampleRow(seq.sampling, 77, [0, 1], seq.tokens, 4, ())
    assert [s.token for s in one([0.0] * 1000, r)] == [int(uniform(77, c, 7) * 1000) for c in (0, 1)]


# --- choices and batches ---


def test_choices_differ_and_equal_rows_of_their_own() -> None:
    logits = np.zeros(1000)
    together = [s.token for s in one(logits, row(choices=[0, 1, 5]))]
    assert together == [one(logits, row(choices=[c]))[0].token for c in (0, 1, 5)]
    assert len(set(together)) == 3


@st.composite
def worlds(draw: st.DrawFn) -> tuple[torch.Tensor, list[SampleRow], list[int]]:
    """Some rows over 300 tokens, and an order to shuffle them into."""
    count = draw(st.integers(1, 7))
    g = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    logits = (g.standard_normal((count, 300)) * 3).round(draw(st.integers(0, 4))).astype(np.float32)
    if draw(st.booleans()):
        logits[draw(st.integers(0, count - 1)), 7] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    rows = [
        row(
            seed=draw(st.integers(-(2**63), 2**63 - 1)),
            tokens=g.integers(0, 300, draw(st.integers(1, 20))).tolist(),
            choices=draw(st.sampled_from([[0], [3], [0, 1, 2]])),
            temperature=draw(st.sampled_from([0.0, 0.5, 1.0])),
            logprobs=draw(st.sampled_from([None, None, 0, 3])),
            **draw(st.sampled_from([{}, *FILTERS[3:11], *PENALTIES])),
        )
        for _ in range(count)
    ]
    return torch.from_numpy(logits), rows, draw(st.permutations(range(count)))


@given(worlds())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_alone_equals_the_row_among_others(
    world: tuple[torch.Tensor, list[SampleRow], list[int]],
) -> None:
    logits, rows, order = world
    together = sample(logits, rows)
    assert [sample(logits[r : r + 1], [rows[r]])[0] for r in range(len(rows))] == together
    assert sample(logits[order], [rows[r] for r in order]) == [together[r] for r in order]


def test_the_thread_count_changes_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 70_001, generator=g) * 3
    rows = [row(**GREEDY), row(), row(top_p=0.9, logprobs=5), row(top_k=50), row(min_p=0.1), row(logprobs=0)]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(sample(logits, rows))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


# --- broken rows ---


@pytest.mark.parametrize("params", [GREEDY, {}, {"top_p": 0.5}, GREEDY | {"logprobs": 1}], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_row_fails_alone(params: dict[str, Any], bad: float) -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0], [9.0, bad, 0.0], [0.0, 0.0, 9.0]])
    rows = [row(**GREEDY), row(**params), row(**GREEDY)]
    good, broken, also_good = sample(logits, rows)
    assert isinstance(broken, InvalidLogits)
    assert (tokens_of(good), tokens_of(also_good)) == ([1], [2])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_nothing_left_is_invalid(temperature: float) -> None:
    (result,) = sample(torch.zeros(1, 2), [row(temperature=temperature, banned=(0, 1))])
    assert isinstance(result, InvalidLogits)


def test_minus_infinity_is_never_drawn() -> None:
    logits = torch.full((200, 5), -math.inf)
    logits[:, 2] = logits[:, 4] = 0.0
    result = sample(logits, [row(seed=s, top_k=s % 5) for s in range(200)])
    assert {tokens_of(r)[0] for r in result} == {2, 4}


@pytest.mark.parametrize(("u", "token"), [(0.0, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_a_draw_on_the_edge_belongs_to_the_next_token_with_weight(
    monkeypatch: pytest.MonkeyPatch, u: float, token: int
) -> None:
    monkeypatch.setattr(sampler.native_library, "available", lambda: False)
    monkeypatch.setattr(sampler, "uniform", lambda *_: u)
    assert one([-math.inf, 0.0, -math.inf, 0.0, -math.inf], row())[0].token == token


def test_no_rows() -> None:
    assert sample(torch.zeros(0, 5), []) == []


# --- log-probabilities ---


def test_logprobs_are_those_of_the_raw_distribution() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5, 2.0]])
    raw = torch.log_softmax(logits[0].double(), 0).tolist()
    r = row(temperature=0.5, logit_bias={2: 50.0}, logprobs=3)
    (result,) = sample(logits, [r])
    assert not isinstance(result, InvalidLogits)
    assert result[0].token == 2
    assert result[0].logprob == pytest.approx(raw[2])
    assert [t for t, _ in result[0].top] == [1, 3, 0]
    assert [p for _, p in result[0].top] == pytest.approx([raw[1], raw[3], raw[0]])


@pytest.mark.parametrize(("k", "length"), [(0, 0), (1, 1), (20, 4)])
def test_as_many_top_logprobs_as_asked_for_or_as_there_are(k: int, length: int) -> None:
    assert len(one([1.0, 2.0, 3.0, 4.0], row(logprobs=k))[0].top) == length


def test_no_logprob_unless_asked_for() -> None:
    assert one([1.0, 2.0], row())[0] == Sampled(1, None, [])


def test_prompt_scores_equal_a_log_softmax() -> None:
    logits = torch.randn(9, 40, generator=torch.Generator().manual_seed(3))
    following = list(range(0, 36, 4))
    scores, top = score_prompt(logits, following, 2)
    raw = torch.log_softmax(logits.double(), 1)
    assert scores == pytest.approx([raw[i, t].item() for i, t in enumerate(following)])
    assert [[t for t, _ in pair] for pair in top] == raw.topk(2).indices.tolist()
    assert [p for pair in top for _, p in pair] == pytest.approx(raw.topk(2).values.flatten().tolist())


def test_a_prompt_row_scores_the_same_in_any_chunk() -> None:
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(3))
    whole = score_prompt(logits, [1] * 6, 3)
    parts = [score_prompt(logits[i : i + 2], [1, 1], 3) for i in (0, 2, 4)]
    assert whole == ([s for p in parts for s in p[0]], [t for p in parts for t in p[1]])


def test_a_broken_prompt_row_scores_minus_infinity() -> None:
    assert score_prompt(torch.tensor([[math.nan, 0.0]]), [1], 1) == ([-math.inf], [[]])


# --- ahead: rows as arrays, tokens as a tensor ---


def ahead(logits: torch.Tensor, rows: list[SampleRow], out: HostRows | None = None) -> list[int]:
    fields = device_rows(rows, out)
    found: list[int] = sample_ahead(logits, DeviceRows(*map(torch.from_numpy, fields))).tolist()
    return found


@given(worlds())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ahead_gives_the_same_tokens(world: tuple[torch.Tensor, list[SampleRow], list[int]]) -> None:
    logits, rows, _ = world
    here = [r for r, row in enumerate(rows) if row.on_device]
    expected = []
    for row, result in zip(rows, sample(logits, rows), strict=True):
        if row.on_device:
            broken = isinstance(result, InvalidLogits)
            expected += [-1] * len(row.choices) if broken else tokens_of(result)
    assert ahead(logits[here], [rows[r] for r in here]) == expected


def test_rows_on_the_device_are_those_that_need_no_more_than_logits() -> None:
    assert row(top_p=0.5, top_k=3, min_p=0.1, choices=[0, 1]).on_device
    assert not row(logprobs=0).on_device
    assert not row(banned=(1,)).on_device
    assert not row(presence_penalty=0.5).on_device
    assert not row(logit_bias={1: 1.0}).on_device


def test_what_is_left_of_the_arrays_is_a_greedy_row() -> None:
    out = HostRows.empty(5)
    for field in out:
        field[:] = 1
    logits = torch.tensor([[0.0, 3.0, 3.0], [9.0, 0.0, 0.0]])
    rows = [row(**GREEDY), row(seed=(1 << 64) - 1, top_p=1e-6)]
    assert ahead(logits, rows, out) == [1, 0, 1, 1, 1]
    assert out.seed.tolist() == [1, -1, 0, 0, 0]


@pytest.mark.parametrize(
    ("params", "needs"),
    [
        (GREEDY | {"top_p": 0.5, "top_k": 3}, (False, False, False)),
        ({}, (True, False, False)),
        ({"top_k": 3}, (True, True, False)),
        ({"top_p": 0.5, "top_k": -1}, (True, False, True)),
    ],
    ids=str,
)
def test_what_rows_need_is_told(params: dict[str, Any], needs: tuple[bool, bool, bool]) -> None:
    assert sampler.needs_of(device_rows([row(**params), row(**GREEDY)])) == needs


def test_no_rows_ahead() -> None:
    assert ahead(torch.zeros(0, 5), []) == []
