"""The product with a weight of 4 bits: few rows and many, every kind of group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from gpu_cases import DEVICE, TOLERANCE, poison, wrong
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels import tuned
from kernels.matmul_w4 import launch, matmul_w4, matmul_w4_reference
from kernels.matmul_w4_few import split_of
from kernels.w4_layouts import W4Weight, pack

CUDA = DEVICE == "cuda"
DTYPES = [torch.bfloat16, torch.float16]
KINDS = ["symmetric", "zeros", "minima"]
TILES = [  # every kind that a table may name
    {"BLOCK_N": 64, "BLOCK_T": 16, "num_warps": 4, "num_stages": 4},
    {"BLOCK_N": 64, "BLOCK_T": 128, "num_warps": 4, "num_stages": 4},
    {"BLOCK_N": 128, "BLOCK_T": 32, "num_warps": 8, "num_stages": 3},
    {"BLOCK_N": 128, "BLOCK_T": 128, "num_warps": 8, "num_stages": 4},
    {"BLOCK_N": 128, "BLOCK_T": 256, "num_warps": 8, "num_stages": 3},
]


def random_weight(n: int, k: int, group: int, kind: str = "symmetric", whole: bool = False) -> W4Weight:
    """Random codes. ``whole``: such that all sums with small integers are exact."""
    groups = 1 if group == -1 else -(-k // group)
    codes, scales = torch.randint(16, (n, k), dtype=torch.uint8), torch.rand(groups, n).add(0.1).half()
    scales = torch.ones_like(scales) if whole else scales
    zeros = torch.randint(1, 17, (groups, n), dtype=torch.int8) if kind == "zeros" else None
    minima = -scales * torch.randint(5, 10, (groups, n)) if kind == "minima" else None
    return pack(codes, scales, group, zeros, minima).to(DEVICE)


@settings(max_examples=24, deadline=None)
@given(
    t=st.sampled_from([1, 3, 16, 17, 64, 65, 140]),
    n=st.integers(1, 140),
    k=st.sampled_from([32, 128, 136, 256, 600, 1100]),
    group=st.sampled_from([32, 64, 128, -1]),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    biased=st.booleans(),
    invariant=st.booleans(),
)
def test_agrees_with_float64(
    t: int, n: int, k: int, group: int, kind: str, dtype: torch.dtype, biased: bool, invariant: bool
) -> None:
    x, weight = torch.randn(t, k).to(DEVICE, dtype), random_weight(n, k, group, kind)
    bias, out = torch.randn(n).to(DEVICE, dtype) if biased else None, poison(t, n, dtype=dtype)
    launch(x, weight, bias, out, invariant)
    assert wrong(out, matmul_w4_reference(x, weight, bias)) < TOLERANCE[dtype]


def test_columns_may_come_in_another_order() -> None:
    weight, x = random_weight(40, 256, 64), torch.randn(3, 256).to(DEVICE, torch.float16)
    order = torch.randperm(256).to(DEVICE)
    moved = replace(weight, columns=order)
    assert torch.equal(matmul_w4(x, moved), matmul_w4(x[:, order], weight))
    assert wrong(matmul_w4(x, moved), matmul_w4_reference(x, moved, None)) < 1e-3


@pytest.mark.parametrize(("n", "steps"), [(37888, 14), (3584, 74), (4608, 14), (3584, 14), (64, 1), (300, 5)])
def test_pieces_of_k_cover_it(n: int, steps: int) -> None:
    chunk, pieces = split_of(n, steps)
    assert (pieces - 1) * chunk < steps <= pieces * chunk


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [32, 128, -1])
def test_a_row_does_not_feel_the_others(kind: str, group: int) -> None:
    """In the interpreter with numbers whose sums are exact in any order, as in ``cases_matmul``."""
    n, k, dtype = (1000, 4104, torch.bfloat16) if CUDA else (5, 300, torch.float16)
    weight = random_weight(n, k, group, kind, whole=not CUDA)
    x = torch.randn(300, k) if CUDA else torch.randint(-1, 2, (300, k))
    x = x.to(DEVICE, dtype)
    whole = matmul_w4(x, weight, invariant=True)
    for rows in (255, 256, 257):
        assert torch.equal(matmul_w4(x[-rows:], weight, invariant=True), whole[-rows:]), rows
    for row in (0, 63, 255, 299):
        assert torch.equal(matmul_w4(x[row : row + 1], weight, invariant=True), whole[row : row + 1]), row
    few = matmul_w4(x[:16], weight)
    for rows in (1, 2, 15):
        assert torch.equal(matmul_w4(x[16 - rows : 16], weight), few[16 - rows :]), rows


@pytest.mark.skipif(not CUDA, reason="numpy's sums depend on the size of a tile")
@pytest.mark.parametrize("kind", KINDS)
def test_no_tile_changes_a_bit(kind: str) -> None:
    weight, x = random_weight(520, 4104, 128, kind), torch.randn(300, 4104).to(DEVICE, torch.bfloat16)
    results = []
    for use in TILES:
        with tuned.override("matmul_w4_many", use):
            results.append(matmul_w4(x, weight, invariant=True))
    assert all(torch.equal(each, results[0]) for each in results)


def launches() -> Iterator[Launch]:
    yield _launch("w4 gate_up T=1 g=128", 1, 37888, 3584, 128)
    yield _launch("w4 down T=16 g=128 zeros", 16, 3584, 18944, 128, "zeros")
    yield _launch("w4 down T=4 g=32 minima", 4, 3584, 18944, 32, "minima")
    yield _launch("w4 gate_up T=1 g=32", 1, 37888, 3584, 32)
    yield _launch("w4 down T=64 g=64", 64, 3584, 18944, 64)
    yield _launch("w4 down T=256 g=128", 256, 3584, 18944, 128)
    yield _launch("w4 gate_up T=2048 g=128 zeros", 2048, 37888, 3584, 128, "zeros")


def _launch(title: str, t: int, n: int, k: int, group: int, kind: str = "symmetric") -> Launch:
    words = 16 if group == 32 else 32
    blocks = -(-k // 256) * (32 // words)
    codes = torch.empty(blocks, n, words, dtype=torch.int32)
    groups = torch.empty(blocks * 8 * words // group, n, dtype=torch.int32)
    weight = W4Weight(codes, groups, kind == "minima", group, (n, k))
    x = torch.empty(t, k, dtype=torch.bfloat16)
    return Launch(title, lambda: matmul_w4(x, weight), tensor_cores=True)
