"""x @ weight.T + bias, in which on CPU in float32 a row's bits depend on that row alone.

``pack``, called once when the weights are loaded, turns a float32 CPU weight into oneDNN's blocked form:
with it one row costs about half of what it does by a plain weight, which works too. Either way ``row_tile``
measures how rows must be padded on this processor. On a GPU this is cuBLAS, whose bits may vary with the
number of rows, unless asked for better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels.backend import use_triton
from kernels.matmul import matmul_invariant
from kernels.row_tile import ROW_TILES, smallest_row_tile

MOST_PROBED = 2048  # weight rows (columns of the result) that the probe multiplies
LARGEST_TILE = ROW_TILES[-1]

_tiles: dict[tuple[int, int, int, bool], int | None] = {}


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, invariant: bool = False
) -> torch.Tensor:
    """``x[T, K]``, ``weight[N, K]`` plain or packed, ``bias[N]`` -> ``[T, N]``.

    Reads T K + N K, writes T N numbers; the padded rows are at most 31. ``invariant``: on a GPU too a row's
    bits must not depend on the others, which takes longer (``kernels.matmul``).
    """
    assert x.dim() == weight.dim() == 2, (x.shape, weight.shape)
    assert x.shape[1] == weight.shape[1], (x.shape, weight.shape)
    if invariant and use_triton(x):
        return matmul_invariant(x, weight, bias)
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    # The bias is added after: as the start of the sums it would be one more term in their order.
    y = _independent_rows(x, weight)
    return y if bias is None else y.add_(bias)


def linear_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Sums in float64, rounded once: reads T K + N K, writes T N numbers and the wide copies."""
    y = x.double() @ weight.double().T
    return (y if bias is None else y + bias.double()).to(x.dtype)


def pack(weight: torch.Tensor) -> torch.Tensor:
    """``weight[N, K]`` in the form that ``linear`` reads fastest: a copy on CPU in float32, elsewhere itself.

    The copy is opaque: it has the shape of the weight, but only ``linear`` can read it.
    """
    plain = weight.device.type != "cpu" or weight.dtype != torch.float32 or use_triton(weight)
    if plain or not torch._C._has_mkldnn:
        return weight
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def row_tile(weight: torch.Tensor) -> int | None:
    """Rows that ``_matmul`` by this weight must be padded to a multiple of; None if no multiple will do.

    Measured once for each shape and number of threads. For a weight of more than 2048 rows one of 2048
    stands, of the same kind: past a few panels the library repeats its inner loops over more rows of the
    weight, and the order of a sum lies along K.
    """
    n, k = weight.shape
    key = (n, k, torch.get_num_threads(), weight.is_mkldnn)
    if key not in _tiles:
        if n <= MOST_PROBED:
            probed = weight
        elif weight.is_mkldnn:
            probed = pack(torch.randn(MOST_PROBED, k, generator=torch.Generator().manual_seed(1)))
        else:
            probed = weight[:MOST_PROBED]
        _tiles[key] = smallest_row_tile(lambda rows: _matmul(rows, probed), k)
    return _tiles[key]


def _independent_rows(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows, tile = x.shape[0], row_tile(weight)
    if rows == 0:
        return x.new_empty(0, weight.shape[0])
    padded = F.pad(x, (0, 0, 0, -rows % (tile or LARGEST_TILE)))
    if tile is not None:
        y = _matmul(padded, weight)
    else:
        starts = range(0, padded.shape[0], LARGEST_TILE)
        y = torch.cat([_matmul(padded[i : i + LARGEST_TILE], weight) for i in starts])
    return y[:rows]


def _matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if not weight.is_mkldnn:
        return F.linear(x, weight)
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y
