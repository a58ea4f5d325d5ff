"""How many rows a matmul must be given so that a row's bits do not depend on how many there are.

A BLAS picks its inner loops by the number of rows: a row alone may be summed in another order than the same
row among eight. Which counts agree depends on the library, the processor and the number of threads, so it is
measured.
Knows a function of rows; knows no weight and no model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

ROW_TILES = (1, 4, 8, 16, 32)
PROBED_ROWS = 64
SHIFT = 5  # a row's place among the others must not matter either

RowFunction = Callable[[torch.Tensor], torch.Tensor]


def smallest_row_tile(function: RowFunction, columns: int) -> int | None:
    """The smallest tile such that rows padded to a multiple of it come out alike, bit for bit, or None.

    ``function`` maps fp32 ``[m, columns]`` to ``[m, ...]``. Some multiples of a tile, shifted by a few
    rows, are compared with the rows of one call of 64 on one thread: under one thread and under the present
    number.
    """
    threads = torch.get_num_threads()
    rows = torch.randn(PROBED_ROWS, columns, generator=torch.Generator().manual_seed(0))
    try:
        torch.set_num_threads(1)
        reference = function(rows)
        return next((t for t in ROW_TILES if _agrees(function, rows, reference, t, {1, threads})), None)
    finally:
        torch.set_num_threads(threads)


def _agrees(
    function: RowFunction, rows: torch.Tensor, reference: torch.Tensor, tile: int, threads: set[int]
) -> bool:
    for n in threads:
        torch.set_num_threads(n)
        if not torch.equal(function(rows.roll(SHIFT, 0)), reference.roll(SHIFT, 0)):
            return False
        counts = [m for m in (tile, 2 * tile, 3 * tile, 5 * tile) if m + SHIFT <= PROBED_ROWS]
        if not all(torch.equal(function(rows[SHIFT:][:m]), reference[SHIFT:][:m]) for m in counts):
            return False
    return True
