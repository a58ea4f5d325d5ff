"""Linear, norm, gate, rope: a row's bits depend neither on how many rows are computed nor on the threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.activation import silu_mul
from kernels.linear import linear, pack
from kernels.norm import rms_norm
from kernels.rope import apply_rope

ROWS = 100
SHAPES = [(960, 576), (576, 1536), (48, 64), (301, 100), (5000, 64)]  # N, K

RowFunction = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def under(threads: int, function: RowFunction, x: torch.Tensor) -> torch.Tensor:
    torch.set_num_threads(threads)
    return function(x)


def rope_q(x: torch.Tensor) -> torch.Tensor:
    angle = x[:, :16].float()
    return apply_rope(x.view(-1, 9, 64), x[:, :64].view(-1, 1, 64), angle.cos(), angle.sin())[0]


ELEMENTWISE: dict[str, RowFunction] = {
    "rms_norm": lambda x: rms_norm(x, torch.linspace(0.5, 2, 576), 1e-5),
    "head_norm": lambda x: rms_norm(x.view(-1, 9, 64), torch.linspace(0.5, 2, 64), 1e-5),
    "silu_mul": silu_mul,
    "rope": rope_q,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@settings(deadline=None, max_examples=15)
@given(first=st.integers(0, 99), rows=st.integers(1, 40), threads=st.integers(1, 2))
def test_a_slice_of_rows_equals_the_rows_of_all(name: str, first: int, rows: int, threads: int) -> None:
    x = torch.randn(ROWS, 576, generator=torch.Generator().manual_seed(3))
    whole = under(1, ELEMENTWISE[name], x)[first : first + rows]
    assert torch.equal(under(threads, ELEMENTWISE[name], x[first : first + rows]), whole)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_rows_stand_alone(shape: tuple[int, int], packed: bool) -> None:
    weight, bias = torch.randn(shape), torch.randn(shape[0])
    weight = pack(weight) if packed else weight
    x = torch.randn(333, shape[1])
    whole = under(1, lambda rows: linear(rows, weight, bias), x)
    for threads in (1, 2):
        for rows in (1, 2, 3, 4, 5, 7, 10, 11, 33, 100, 256):
            got = under(threads, lambda part: linear(part, weight, bias), x[5 : 5 + rows])
            assert torch.equal(got, whole[5 : 5 + rows]), (threads, rows)


def test_two_threads_agree_with_one_over_many_elements() -> None:
    x = torch.randn(1000, 576)
    for function in ELEMENTWISE.values():
        assert torch.equal(under(2, function, x), under(1, function, x))
