"""Rows as codes of 8 bits, and their product with such a weight."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_cases import DEVICE, TOLERANCE, poison, wrong
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels import quantise_rows as rows_file
from kernels import tuned
from kernels.matmul_w8 import W8Weight, dequantise, launch, matmul_w8, matmul_w8_reference, name
from kernels.quantise_rows import LARGEST, quantise_rows, quantise_rows_reference

CUDA = DEVICE == "cuda"
CODES = list(LARGEST)
TILES = [  # every kind that a table may name
    {"BLOCK_N": 64, "BLOCK_T": 16, "num_warps": 4, "num_stages": 6},
    {"BLOCK_N": 64, "BLOCK_T": 128, "num_warps": 4, "num_stages": 4},
    {"BLOCK_N": 128, "BLOCK_T": 64, "num_warps": 4, "num_stages": 4},
    {"BLOCK_N": 128, "BLOCK_T": 128, "num_warps": 8, "num_stages": 4},
]


def random_codes(n: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    wide = torch.randn(n, k) * (40 if dtype == torch.int8 else 100)
    return wide.clamp(-LARGEST[dtype], LARGEST[dtype]).to(dtype).to(DEVICE)


def random_weight(n: int, k: int, dtype: torch.dtype, kind: str = "rows") -> W8Weight:
    size = {"one": (1,), "rows": (n, 1), "blocks": (-(-n // 128), -(-k // 128))}[kind]
    return W8Weight.of(random_codes(n, k, dtype), torch.rand(size).add(0.1).to(DEVICE))


def random_rows(t: int, k: int, code: torch.dtype, size: float = 1.0) -> torch.Tensor:
    """Normal numbers. The interpreter rounds to fp8 wrongly (31.5 to 16): there what fp8 holds as it is,
    with a 448 in each row and times a power of two."""
    if CUDA or code == torch.int8:
        return (torch.randn(t, k) * size).to(DEVICE)
    codes = torch.cat((torch.full((t, 1), 448.0), random_codes(t, k - 1, code).float()), 1)
    return codes[:, torch.randperm(k)] * torch.ldexp(torch.ones(t, 1), torch.randint(-8, 4, (t, 1)))


@settings(max_examples=16, deadline=None)
@given(
    t=st.sampled_from([1, 3, 17]),
    k=st.sampled_from([1, 32, 100, 1030]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    code=st.sampled_from(CODES),
    size=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_rows_become_codes(t: int, k: int, dtype: torch.dtype, code: torch.dtype, size: float) -> None:
    x = random_rows(t, k, code, size).to(dtype)
    codes, scales = poison(t, k, dtype=code), poison(t)
    rows_file.launch(x, codes, scales)
    _, want = quantise_rows_reference(x, code)
    torch.testing.assert_close(scales, want, rtol=1e-6, atol=0)
    exact = x.double() / scales.double()[:, None]
    step = 0.5 if code == torch.int8 else exact.abs().clamp_min(2**-6) * 2**-4  # half of what codes lie apart
    assert bool(((codes.double() - exact).abs() <= step * 1.0001).all())
    if not CUDA and code != torch.int8:
        assert torch.equal(codes.double(), exact)
    assert codes.double().abs().amax(1).eq(LARGEST[code]).all()  # the largest number takes the largest code


def test_a_row_of_zeros_stays_one() -> None:
    for code in CODES:
        codes, scales = quantise_rows(torch.zeros(2, 40, device=DEVICE), code)
        assert not codes.double().any()
        assert scales.isfinite().all()


@settings(max_examples=20, deadline=None)
@given(
    t=st.sampled_from([1, 3, 17, 65, 260]),
    n=st.integers(1, 260),
    k=st.sampled_from([1, 32, 128, 130, 400]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    weight=st.sampled_from(
        [(torch.int8, "one"), (torch.int8, "rows")]
        + [(torch.float8_e4m3fn, kind) for kind in ("one", "rows", "blocks")]
    ),
    biased=st.booleans(),
)
def test_agrees_with_float64(
    t: int, n: int, k: int, dtype: torch.dtype, weight: tuple[torch.dtype, str], biased: bool
) -> None:
    code, kind = weight
    x, w = random_codes(t, k, code), random_weight(n, k, code, kind)
    scales = torch.rand(t, device=DEVICE).add(0.1) * 1e-4
    bias, out = torch.randn(n).to(DEVICE, dtype) if biased else None, poison(t, n, dtype=dtype)
    launch(x, scales, w, bias, out)
    assert wrong(out, matmul_w8_reference(x, scales, w, bias)) < TOLERANCE[dtype]


@pytest.mark.parametrize("code", CODES)
def test_from_numbers_to_numbers(code: torch.dtype) -> None:
    """What 8 bits lose of normal numbers: a percent or two."""
    x, w = random_rows(5, 300, code).bfloat16(), random_weight(70, 300, code)
    assert wrong(matmul_w8(x, w), x.double() @ dequantise(w).T) < 0.04
    assert matmul_w8(x[:0], w).shape == (0, 70)


@pytest.mark.parametrize("code", CODES)
def test_a_row_does_not_feel_the_others(code: torch.dtype) -> None:
    """In the interpreter codes are so small that their sums are exact in fp32, as in ``cases_matmul``."""
    n, k = (1000, 4112) if CUDA else (5, 150)
    x, w = random_codes(300, k, code), random_weight(n, k, code)
    if not CUDA:
        x, w = (
            torch.randint(-3, 4, (300, k)).to(code),
            W8Weight.of(torch.randint(-3, 4, (n, k)).to(code), 0.5),
        )
    scales = torch.rand(300, device=DEVICE)

    def product(first: int, last: int) -> torch.Tensor:
        out = poison(last - first, n, dtype=torch.bfloat16)
        launch(x[first:last], scales[first:last], w, None, out)
        return out

    whole = product(0, 300)
    for rows in (255, 256, 257):
        assert torch.equal(product(300 - rows, 300), whole[-rows:]), rows
    for row in (0, 63, 255, 299):
        assert torch.equal(product(row, row + 1), whole[row : row + 1]), row


@pytest.mark.skipif(not CUDA, reason="numpy's sums depend on the size of a tile")
@pytest.mark.parametrize("kind", ["rows", "blocks"])
def test_no_tile_changes_a_bit(kind: str) -> None:
    weight = random_weight(520, 4112, torch.float8_e4m3fn, kind)
    x, scales = random_codes(300, 4112, torch.float8_e4m3fn), torch.rand(300, device=DEVICE)
    results = []
    for use in TILES:
        out = poison(300, 520, dtype=torch.bfloat16)
        with tuned.override(name(torch.float8_e4m3fn), use):
            launch(x, scales, weight, None, out)
        results.append(out)
    assert all(torch.equal(each, results[0]) for each in results)


def launches() -> Iterator[Launch]:
    wide = torch.empty(16, 18944, dtype=torch.bfloat16)
    yield Launch("quantise rows int8", lambda: quantise_rows(wide, torch.int8))
    yield Launch("quantise rows fp8", lambda: quantise_rows(wide, torch.float8_e4m3fn))
    yield _launch("w8 int8 down T=16", 16, 3584, 18944, torch.int8)
    yield _launch("w8 int8 gate_up T=4096", 4096, 37888, 3584, torch.int8)
    yield _launch("w8 fp8 down T=16", 16, 3584, 18944, torch.float8_e4m3fn)
    yield _launch("w8 fp8 gate_up T=256", 256, 37888, 3584, torch.float8_e4m3fn)
    yield _launch("w8 fp8 gate_up T=4096", 4096, 37888, 3584, torch.float8_e4m3fn)
    yield _launch("w8 fp8 gate_up T=4096 blocks", 4096, 37888, 3584, torch.float8_e4m3fn, (296, 28))


def _launch(
    title: str, t: int, n: int, k: int, dtype: torch.dtype, scales: tuple[int, ...] | None = None
) -> Launch:
    weight = W8Weight(torch.empty(n, k, dtype=dtype), torch.empty(scales or (n,)))
    x, out = torch.empty(t, k, dtype=dtype), torch.empty(t, n, dtype=torch.bfloat16)
    return Launch(title, lambda: launch(x, torch.empty(t), weight, None, out), tensor_cores=True)
