"""The batch-invariant product: right, and each row alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_cases import DEVICE, TOLERANCE, poison, wrong
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels import tuned
from kernels.matmul import launch, matmul_invariant, matmul_reference, name

QWEN_7B = {"gate_up": (37888, 3584), "down": (3584, 18944)}
CUDA = DEVICE == "cuda"
TILES = [  # of bf16: every kind that ``default`` or a table may name
    {"BLOCK_N": 64, "BLOCK_T": 16, "num_warps": 4, "num_stages": 8},
    {"BLOCK_N": 64, "BLOCK_T": 64, "num_warps": 4, "num_stages": 4},
    {"BLOCK_N": 128, "BLOCK_T": 32, "num_warps": 8, "num_stages": 4},
    {"BLOCK_N": 128, "BLOCK_T": 128, "num_warps": 4, "num_stages": 4},
    {"BLOCK_N": 128, "BLOCK_T": 128, "num_warps": 8, "num_stages": 3},
    {"BLOCK_N": 128, "BLOCK_T": 256, "num_warps": 8, "num_stages": 3},
]


def random(*size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(size).to(DEVICE, dtype)


@settings(max_examples=16, deadline=None)
@given(
    t=st.sampled_from([1, 3, 17, 40, 65, 130]),
    n=st.integers(1, 150),
    k=st.sampled_from([1, 16, 64, 71, 200]),
    dtype=st.sampled_from(list(TOLERANCE)),
    biased=st.booleans(),
)
def test_agrees_with_float64(t: int, n: int, k: int, dtype: torch.dtype, biased: bool) -> None:
    x, weight = random(t, k, dtype=dtype), random(n, k, dtype=dtype)
    bias, out = random(n, dtype=dtype) if biased else None, poison(t, n, dtype=dtype)
    launch(x, weight, bias, out)
    assert wrong(out, matmul_reference(x, weight, bias)) < TOLERANCE[dtype]


def test_rows_may_lie_apart_and_none_may_come() -> None:
    fused, weight = random(5, 100, dtype=torch.bfloat16), random(40, 36, dtype=torch.bfloat16)
    x = fused[:, 64:]
    assert wrong(matmul_invariant(x, weight, None), matmul_reference(x, weight, None)) < 1e-2
    assert matmul_invariant(x[:0], weight, None).shape == (0, 40)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_a_row_does_not_feel_the_others(dtype: torch.dtype) -> None:
    """Rows of batches of 1, 255, 256 and 257, each in one order and shifted, agree bit for bit.

    The interpreter multiplies whole tiles by numpy, whose sums depend on the tile's size and on a row's place
    in it. There the numbers are small integers, whose sums are exact in any order: what shows is a row that
    is mixed up, lost or fed from another. On a GPU they are what they are.
    """
    n, k = (1000, 1544) if CUDA else (5, 70)
    if CUDA:
        x, weight = random(514, k, dtype=dtype), random(n, k, dtype=dtype)
    else:
        x, weight = torch.randint(-3, 4, (514, k)).to(dtype), torch.randint(-3, 4, (n, k)).to(dtype)
    whole = matmul_invariant(x, weight, None)
    for rows in (255, 256, 257):
        for first in (0, 514 - rows):
            part = matmul_invariant(x[first : first + rows], weight, None)
            assert torch.equal(part, whole[first : first + rows]), (rows, first)
    for row in (0, 1, 63, 255, 256, 513):
        assert torch.equal(matmul_invariant(x[row : row + 1], weight, None), whole[row : row + 1]), row


@pytest.mark.skipif(not CUDA, reason="numpy's sums depend on the size of a tile")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_tile_changes_a_bit(dtype: torch.dtype) -> None:
    """So that a table of tuned tiles may choose by the number of rows."""
    x, weight = random(300, 4104, dtype=dtype), random(520, 4104, dtype=dtype)
    results = []
    for use in TILES:
        with tuned.override(name(dtype), use):
            results.append(matmul_invariant(x, weight, None))
    assert all(torch.equal(each, results[0]) for each in results)


def launches() -> Iterator[Launch]:
    for rows in (1, 64, 256, 2048):
        for layer, (n, k) in QWEN_7B.items():
            if (rows, layer) in ((1, "gate_up"), (64, "down"), (256, "down"), (2048, "gate_up")):
                yield _launch(f"matmul {layer} T={rows}", rows, n, k, torch.bfloat16)
    yield _launch("matmul fp16 T=17 K=100", 17, 70, 100, torch.float16)
    yield Launch("matmul fp32", _launch("", 5, 64, 64, torch.float32).run)


def _launch(title: str, t: int, n: int, k: int, dtype: torch.dtype) -> Launch:
    x, weight = torch.empty(t, k, dtype=dtype), torch.empty(n, k, dtype=dtype)
    whole = k % 8 == 0  # rows that are no multiple of 16 bytes are not copied asynchronously
    return Launch(title, lambda: matmul_invariant(x, weight, None), tensor_cores=True, pipelined=whole)
