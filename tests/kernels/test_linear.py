from __future__ import annotations

import pytest
import torch

from kernels import linear as module
from kernels.linear import linear, linear_reference, pack, row_tile
from kernels.row_tile import smallest_row_tile


@pytest.mark.parametrize("form", [lambda w: w, pack], ids=["plain", "packed"])
@pytest.mark.parametrize(("n", "k"), [(301, 100), (576, 1536), (1, 7)])
@pytest.mark.parametrize("rows", [0, 1, 5, 37])
def test_agrees_with_the_reference(form, n: int, k: int, rows: int) -> None:
    x, weight, bias = torch.randn(rows, k), torch.randn(n, k), torch.randn(n)
    torch.testing.assert_close(
        linear(x, form(weight), bias), linear_reference(x, weight, bias), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(5, 64).to(dtype), torch.randn(48, 64).to(dtype), torch.randn(48).to(dtype)
    got = linear(x, pack(weight), bias)
    assert got.dtype == dtype
    torch.testing.assert_close(got, linear_reference(x, weight, bias), rtol=2e-2, atol=5e-2)


def test_without_a_bias() -> None:
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    torch.testing.assert_close(linear(x, weight, None), linear_reference(x, weight, None))


def test_a_packed_weight_keeps_its_shape() -> None:
    assert pack(torch.randn(48, 64)).shape == (48, 64)


def test_a_slice_of_a_weight_packs_to_the_same_result() -> None:
    x, weight = torch.randn(3, 64), torch.randn(64, 128)
    got = linear(x, pack(weight[:, ::2]), None)
    torch.testing.assert_close(got, linear_reference(x, weight[:, ::2], None), rtol=1e-4, atol=1e-4)


def test_the_tile_is_probed_once_for_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(51, 13)
    tile = row_tile(weight)
    monkeypatch.setattr(module, "_matmul", None)
    assert row_tile(torch.randn(51, 13)) == tile


def test_rows_that_mix_have_no_tile() -> None:
    assert smallest_row_tile(lambda rows: rows * rows.shape[0], 4) is None


def test_the_smallest_tile_that_agrees_is_found() -> None:
    assert smallest_row_tile(lambda rows: rows + (rows.shape[0] % 8), 4) == 8


def test_probing_leaves_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    row_tile(torch.randn(17, 19))
    assert torch.get_num_threads() == before


def test_where_no_tile_agrees_rows_go_in_fixed_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matmul whose rows all depend on how many there are still gives a row the same bits in any company."""
    monkeypatch.setattr(module, "_matmul", lambda x, w: x @ w.T * x.shape[0])
    x, weight = torch.randn(70, 8), torch.randn(6, 8)
    assert row_tile(weight) is None
    assert torch.equal(linear(x[:3], weight, None), linear(x, weight, None)[:3])
