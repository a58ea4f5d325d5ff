"""x @ weight.T + bias with a weight of 4 bits in groups that share a scale; x and the result bf16 or fp16.

What is promised of a row's bits: they depend on that row and the weights alone among all calls with
``invariant=True``. Without it, among calls of at most 16 rows; with more rows other kernels and tiles serve.
Two ways and no more: ``matmul_w4_few`` up to 64 rows, where the weight's bytes set the pace;
``matmul_w4_many`` beyond, and wherever a row must not feel how many there are. Knows which of the two.
"""

from __future__ import annotations

import torch

from kernels.matmul_w4_few import MOST_ROWS, launch_few
from kernels.matmul_w4_many import launch_many
from kernels.w4_layouts import W4Weight, dequantise


def matmul_w4(
    x: torch.Tensor, weight: W4Weight, bias: torch.Tensor | None = None, *, invariant: bool = False
) -> torch.Tensor:
    """``x[T, K]``, ``weight[N, K]``, ``bias[N]`` -> ``[T, N]``.

    Reads T K + N numbers and N K / 2 bytes with what the groups have, writes T N, for 2 T N K operations.
    """
    out = x.new_empty(x.shape[0], weight.shape[0])
    if x.shape[0]:
        launch(x, weight, bias, out, invariant)
    return out


def matmul_w4_reference(x: torch.Tensor, weight: W4Weight, bias: torch.Tensor | None) -> torch.Tensor:
    """Sums in float64, not rounded, by the weight that the codes stand for."""
    y = x.double() @ dequantise(weight).double().T
    return y if bias is None else y + bias.double()


def launch(
    x: torch.Tensor, weight: W4Weight, bias: torch.Tensor | None, out: torch.Tensor, invariant: bool
) -> None:
    n, k = weight.shape
    assert x.shape[1] == k, (x.shape, weight.shape)
    assert out.shape == (x.shape[0], n), (out.shape, weight.shape)
    assert bias is None or bias.shape == (n,), (bias.shape if bias is not None else None, n)
    assert x.dtype == out.dtype, (x.dtype, out.dtype)
    assert x.dtype in (torch.bfloat16, torch.float16), x.dtype
    if weight.columns is not None:
        x = x.index_select(1, weight.columns)
    assert x.stride(1) == out.stride(1) == 1, (x.stride(), out.stride())
    assert weight.codes.is_contiguous()
    assert weight.groups.is_contiguous()
    few = x.shape[0] <= MOST_ROWS and not invariant
    (launch_few if few else launch_many)(x, weight, bias, out)
