"""The sampler in C++ against the one in numpy: the same tokens and the same scores, to the bit."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import native_library as native
from kernels import sampling_native
from kernels.sampling import UNIT, WHOLE, least_weight, weights
from pagewire.engine import sampler
from pagewire.engine.sampler import InvalidLogits, SampleRow, sample
from pagewire.sampling import SamplingParams

pytestmark = pytest.mark.skipif(not native.available(), reason="no C++ compiler when this was installed")

TWO = native.Threads(2) if native.available() else None
Logits = np.ndarray[Any, np.dtype[np.float32]]


def rows_of(count: int, **params: Any) -> list[SampleRow]:
    p = SamplingParams(**params)
    return [SampleRow(p, 3 * i - 7, [0, 5], [1, 2, 2] * (i + 1), 1) for i in range(count)]


def both(logits: Logits, rows: list[SampleRow]) -> tuple[Any, Any]:
    """What C++ gives and what numpy gives."""
    values = torch.from_numpy(logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler.native_library, "available", lambda: False)
        plain = sample(values, rows)
    return sample(values, rows, TWO), plain


def normal(g: np.random.Generator, shape: tuple[int, int]) -> Logits:
    return (g.standard_normal(shape) * g.uniform(0.1, 8, (shape[0], 1))).astype(np.float32)


def equal(g: np.random.Generator, shape: tuple[int, int]) -> Logits:
    return np.full(shape, g.standard_normal(), np.float32)


def ties(g: np.random.Generator, shape: tuple[int, int]) -> Logits:
    return g.integers(-3, 3, shape).astype(np.float32)


def masked(g: np.random.Generator, shape: tuple[int, int]) -> Logits:
    return np.where(g.random(shape) < 0.9, np.float32(-np.inf), normal(g, shape))


def huge(g: np.random.Generator, shape: tuple[int, int]) -> Logits:
    return (g.choice([-1.0, -1e-30, 0.0, 1.0], shape) * g.choice([3e38, 1e30], shape)).astype(np.float32)


def tiny(g: np.random.Generator, shape: tuple[int, int]) -> Logits:
    return (g.standard_normal(shape) * 1e-40).astype(np.float32)


def broken(g: np.random.Generator, shape: tuple[int, int]) -> Logits:
    x = normal(g, shape)
    at = g.integers(0, shape[1], shape[0])
    x[np.arange(shape[0]), at] = g.choice([np.nan, np.inf, -np.inf, 0.0], shape[0])
    return x


KINDS: list[Callable[[np.random.Generator, tuple[int, int]], Logits]] = [
    normal, equal, ties, masked, huge, tiny, broken
]  # fmt: skip
FILTERS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-4, 0.1, 0.7, 1.0, 1.3, 20.0, 100.0]),
        "top_p": st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999999, 1 - 2**-53, 1.0]),
        "top_k": st.sampled_from([0, 1, 2, 7, 8, 9, 40, 1000, 5000]),
        "min_p": st.sampled_from([0.0, 1e-9, 0.05, 1.0]),
        "logprobs": st.sampled_from([None, None, 0, 1, 20]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.2]),
        "frequency_penalty": st.sampled_from([0.0, 0.0, 0.7]),
    }
)
VOCABS = [1, 2, 7, 8, 31, 33, 300, 1023, 1024, 1025, 2048, 3100]


@given(st.sampled_from(KINDS), st.sampled_from(VOCABS), FILTERS, st.integers(0, 1 << 30))
@settings(deadline=None, max_examples=150)
def test_equals_numpy(kind: Any, vocab: int, filters: dict[str, Any], seed: int) -> None:
    logits = kind(np.random.default_rng(seed), (3, vocab))
    rows = [row._replace(tokens=[t % vocab for t in row.tokens]) for row in rows_of(3, **filters)]
    in_cpp, in_numpy = both(logits, rows)
    assert in_cpp == in_numpy


@pytest.mark.parametrize("temperature", [0.7, 1.5, 50.0])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("top_k", [0, 40, 1000])
def test_equals_numpy_over_a_whole_vocabulary(temperature: float, top_p: float, top_k: int) -> None:
    logits = normal(np.random.default_rng(0), (4, 49_155))
    rows = rows_of(4, temperature=temperature, top_p=top_p, top_k=top_k, logprobs=3)
    in_cpp, in_numpy = both(logits, rows)
    assert in_cpp == in_numpy
    assert not any(isinstance(result, InvalidLogits) for result in in_cpp)


def test_the_sum_of_the_weights_is_numpys() -> None:
    g = np.random.default_rng(1)
    for scale in (1e-6, 0.01, 1.0, 10.0, 1e4):
        x = (g.standard_normal(5000) * scale).astype(np.float32)
        (score,) = sampling_native.score_rows(None, [(x.ctypes.data, 0)], len(x))
        assert score == (float(x.max()), int(weights(x, 1.0).sum()), [])


def test_weights_are_those_of_the_exponential() -> None:
    x = np.concatenate([np.linspace(-40, 0, 200_001), [-math.inf]]).astype(np.float32)
    exact = np.exp(x.astype(np.float64)) * 2.0**UNIT
    got = weights(x, 1.0)
    assert got[-2] == WHOLE
    assert (np.abs(got - exact) <= 0.5 + 3e-7 * exact).all()
    assert got[exact < 0.49].max() == 0


def test_the_least_weight_is_min_p_of_the_largest() -> None:
    assert [least_weight(p) for p in (0.0, 0.25, 1.0)] == [1, WHOLE // 4, WHOLE]


def test_rows_need_not_lie_together() -> None:
    wide = torch.from_numpy(normal(np.random.default_rng(2), (6, 1300)))
    rows = rows_of(3, top_p=0.9, logprobs=2)
    assert sample(wide[::2, :1100], rows) == sample(wide[::2, :1100].contiguous(), rows)
    one = wide[:1].expand(3, -1)
    assert sample(one, rows) == sample(one.contiguous(), rows)


def test_threads_and_neighbours_change_nothing() -> None:
    logits = torch.from_numpy(normal(np.random.default_rng(3), (12, 20_000)))
    params = [{"temperature": 0.0}, {}, {"top_p": 0.8}, {"top_k": 9}, {"min_p": 0.1}, {"logprobs": 4}]
    rows = [rows_of(12, **params[i % 6])[i] for i in range(12)]
    together = sample(logits, rows, TWO)
    assert together == sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [rows[i]])[0] for i in range(12)]


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.7}, {"top_k": 5}, {"min_p": 0.2}], ids=str)
def test_draws_over_a_large_vocabulary_follow_the_weights(filters: dict[str, Any]) -> None:
    x = np.full(3000, -60.0, np.float32)
    where = np.arange(100, 2900, 311)  # in three blocks and their seams
    x[where] = np.linspace(0.0, 2.0, len(where))
    ids, kept = sampler.kept(x, SamplingParams(**filters))
    expected = np.zeros(3000)
    expected[np.arange(3000) if ids is None else ids] = kept / kept.sum()
    draws = 8000
    rows = [SampleRow(SamplingParams(**filters), s, [0], [0], 1) for s in range(draws)]
    found = sample(torch.from_numpy(x).expand(draws, -1), rows, TWO)
    counts = np.bincount([r[0].token for r in found if not isinstance(r, InvalidLogits)], minlength=3000)
    likely = expected * draws > 1e-3
    assert counts[~likely].sum() == 0
    statistic = float(((counts - expected * draws)[likely] ** 2 / (expected * draws)[likely]).sum())
    freedom = int(likely.sum()) - 1
    assert statistic <= freedom + 4.5 * math.sqrt(2 * freedom) + 3


def digest() -> str:
    """Of the tokens and scores of some rows, computed by the kernels of this process."""
    logits = torch.from_numpy(normal(np.random.default_rng(4), (8, 5003)))
    results = [sample(logits, rows_of(8, logprobs=3, **p)) for p in ({}, {"top_p": 0.9}, {"top_k": 30})]
    return hashlib.sha256(repr(results).encode()).hexdigest()


def test_every_kind_of_processor_draws_the_same() -> None:
    if native.isa() == "generic":
        pytest.skip("this processor runs the generic kernels anyway")
    run = subprocess.run(
        [sys.executable, "-c", "import test_sample_native as t; print(t.digest())"],
        env={**os.environ, "PAGEWIRE_ISA": "generic", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == digest()
