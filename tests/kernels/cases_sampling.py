"""Tokens chosen by Triton against tokens chosen on the host, one for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gpu_cases import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sample_native import KINDS, rows_of

from kernels import backend, sampling, tuned
from kernels.backend import jit, tl
from kernels.sampling_numbers import part_of, uniform, weigh
from kernels.sampling_triton import DeviceRows, Needs
from kernels.sampling_triton import sample as on_device
from pagewire import rng
from pagewire.engine import sampler
from pagewire.engine.sampler import SampleRow, device_rows
from pagewire.sampling import SamplingParams

ALL = Needs()
SMALL = {"tile": 16, "programs": 4, "readers": 6, "num_warps": 1}


def found(
    logits: torch.Tensor, rows: list[SampleRow], use: dict[str, int] = SMALL, needs: Needs = ALL
) -> list[int]:
    fields = DeviceRows(*(torch.from_numpy(field).to(DEVICE) for field in device_rows(rows)))
    out = torch.full((len(fields.row),), 0x7F7F7F7F, dtype=torch.int64, device=DEVICE)
    with tuned.override("sampling", use):
        tokens: list[int] = on_device(logits.to(DEVICE), fields, out, needs).tolist()
    return tokens


def wanted(logits: torch.Tensor, rows: list[SampleRow]) -> list[int]:
    """By numpy, or by C++ where it was built."""
    fields = DeviceRows(*map(torch.from_numpy, device_rows(rows)))
    tokens: list[int] = sampler.sample_ahead(logits.float(), fields).tolist()
    return tokens


PARAMS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-4, 0.1, 0.7, 1.0, 1.3, 20.0, 100.0]),
        "top_p": st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999999, 1 - 2**-53, 1.0]),
        "top_k": st.sampled_from([-1, 0, 1, 2, 4, 9, 40, 69, 70, 5000]),
        "min_p": st.sampled_from([0.0, 1e-9, 0.05, 1.0]),
    }
)


@given(st.sampled_from(KINDS), st.sampled_from([1, 2, 33, 70]), st.lists(PARAMS, min_size=2, max_size=2),
       st.integers(0, 1 << 30))  # fmt: skip
@settings(deadline=None, max_examples=16)
def test_tokens_are_those_of_the_host(kind: Any, vocab: int, params: list[dict[str, Any]], seed: int) -> None:
    logits = torch.from_numpy(kind(np.random.default_rng(seed), (2, vocab)))
    rows = [rows_of(2, **p)[r] for r, p in enumerate(params)]
    assert found(logits, rows) == wanted(logits, rows)


FILTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 40},
    {"top_k": 300},
    {"top_p": 0.9},
    {"top_k": 50, "top_p": 0.7},
    {"min_p": 0.02, "top_p": 0.95},
    {"top_k": 1900, "top_p": 0.999, "temperature": 20.0},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tokens_of_wider_rows_and_of_narrow_dtypes(dtype: torch.dtype) -> None:
    g = np.random.default_rng(7)
    filters = FILTERS if dtype == torch.float32 else FILTERS[3:5]
    logits = torch.from_numpy((g.standard_normal((len(filters), 2100)) * 3).astype(np.float32)).to(dtype)
    rows = [SampleRow(SamplingParams(**p), -5, [0, 1], [0] * 9, 1) for p in filters]
    assert found(logits, rows, {"tile": 512, "programs": 14, "readers": 30, "num_warps": 4}) == wanted(
        logits, rows
    )


def test_launches_that_no_row_needs_are_left_out() -> None:
    logits = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 50)).astype(np.float32))
    for params, needs in (
        ({"temperature": 0.0}, Needs(draws=False)),
        ({}, Needs(top_k=False, top_p=False)),
        ({"top_k": 5}, Needs(top_p=False)),
        ({"top_p": 0.6}, Needs(top_k=False)),
    ):
        rows = rows_of(2, **params)
        assert found(logits, rows, needs=needs) == wanted(logits, rows)


def test_neighbours_and_programs_change_nothing() -> None:
    logits = torch.from_numpy(np.random.default_rng(2).integers(-9, 9, (3, 90)).astype(np.float32))
    rows = [rows_of(3, **p)[i] for i, p in enumerate([{"top_p": 0.5}, {"temperature": 0.0}, {"top_k": 9}])]
    alone = [found(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]
    together = found(logits, rows, SMALL | {"programs": 99})
    assert together[::2] == alone


def test_a_nucleus_a_hair_larger_takes_one_token_more() -> None:
    params = SamplingParams(top_p=1 / 3 + 1e-14)
    logits, rows = torch.zeros(1, 3), [SampleRow(params, 1, range(9), [0], 1)]
    assert found(logits, rows) == wanted(logits, rows)
    assert set(found(logits, rows)) == {0, 1}


def test_the_sampler_lets_rows_be_chosen_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.from_numpy(np.random.default_rng(4).standard_normal((5, 40)).astype(np.float32))
    logits[3, 1] = np.nan
    params: list[dict[str, Any]] = [{}, {"logprobs": 2}, {"temperature": 0.0}, {}, {"top_k": 3}]
    rows = [rows_of(5, **p)[r] for r, p in enumerate(params)]
    on_host = sampler.sample(logits, rows)
    assert isinstance(on_host[3], sampler.InvalidLogits)
    monkeypatch.setattr(backend, "interpreted", True)
    with tuned.override("sampling", SMALL):
        assert sampler.sample(logits.to(DEVICE), rows) == on_host


def test_rows_of_logits_may_lie_apart() -> None:
    wide = torch.from_numpy(np.random.default_rng(3).standard_normal((6, 70)).astype(np.float32))
    rows = rows_of(3, top_p=0.9)
    assert found(wide[::2, :50], rows) == wanted(wide[::2, :50].contiguous(), rows)


@jit
def _numbers_kernel(x, best, heat, weights, keys, words, fractions, totals, parts, N: tl.constexpr):
    i = tl.arange(0, N)
    w, key = weigh(tl.load(x + i), best, heat, 1)
    tl.store(weights + i, w)
    tl.store(keys + i, key)
    fraction = uniform(tl.load(words + 3 * i), tl.load(words + 3 * i + 1), tl.load(words + 3 * i + 2))
    tl.store(fractions + i, fraction.to(tl.int64))
    tl.store(parts + i, part_of(fraction, tl.load(totals + i)))


@pytest.mark.parametrize("heat", [0.01, 1.0, 1 / 0.7, 1e4])
def test_numbers_are_those_of_the_host(heat: float) -> None:
    g, count = np.random.default_rng(0), 2048
    x = -np.sort(g.exponential(8 / heat, count)).astype(np.float32)
    x[0] = 0.0
    words = g.integers(0, 1 << 62, (count, 3))
    words[:, 0] = words[:, 0] * 2 - (1 << 62)
    words[:, 2] &= 0xFFFFFFFF
    totals = g.integers(1 << 40, 1 << 58, count)
    given = [torch.from_numpy(a).to(DEVICE) for a in (x, words, totals)]
    weights, fractions, parts = (torch.full((count,), -7, dtype=torch.int64, device=DEVICE) for _ in range(3))
    keys = torch.full((count,), -7, dtype=torch.int32, device=DEVICE)
    _numbers_kernel[(1,)](
        given[0],
        0.0,
        heat,
        weights,
        keys,
        given[1],
        fractions,
        given[2],
        parts,
        N=count,
        enable_fp_fusion=False,
    )
    expected = sampling.weights(x, heat)
    assert weights.tolist() == expected.tolist()
    ranks = np.unique(expected, return_inverse=True)[1]
    assert np.unique(keys.numpy(force=True), return_inverse=True)[1].tolist() == ranks.tolist()
    exact = [int(rng.uniform(s, c, p) * 2.0**53) for s, p, c in words.tolist()]
    assert fractions.tolist() == exact
    assert parts.tolist() == [u * total >> 53 for u, total in zip(exact, totals.tolist(), strict=True)]


def launches() -> Iterator[Any]:
    import offline_gpu
    import triton

    logits = torch.empty(64, 151_936)
    ints = [torch.zeros(64, dtype=torch.int64) for _ in range(6)]
    rows = DeviceRows(torch.zeros(64), torch.zeros(64, dtype=torch.float64), *ints)
    out = torch.empty(64, dtype=torch.int64)
    for needs in (Needs(), Needs(top_k=False, top_p=False), Needs(draws=False)):
        yield offline_gpu.Launch(f"sampling {needs}", lambda needs=needs: on_device(logits, rows, out, needs))
    for name, *code in triton.runtime.driver.active.utils.loaded:
        if name in ("mass_kernel", "weigh_kernel", "draw_kernel"):
            compiled = offline_gpu._read(name, *code)
            assert compiled.count("FMUL"), name
            assert not compiled.count("FFMA|F(ADD|MUL|MNMX|SETP).*FTZ"), (
                f"{name}: a product and a sum are rounded as one"
            )
