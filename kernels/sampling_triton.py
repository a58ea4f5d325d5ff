"""Choosing tokens on the GPU, the same tokens to the bit as on the host (``pagewire.engine.sampler``).

A row of V logits is cut into T tiles, and the tiles of a row are dealt to several programs. What programs
tell each other are whole numbers, added up tile by tile or in bins, so neither the order nor the number of
programs changes anything. Nothing is sorted: the k-th largest logit, and the lightest weight of the nucleus,
are found by their digits (a radix select, as in Alabi et al., "Fast k-selection algorithms for graphics
processing units", 2012), 11 or 10 bits a pass from the top: what lies in each bin is counted for top_k and
added up for top_p, and the bin that reaches k, or top_p of the whole, holds the rest of the search. Ties are
taken in order of ids: so many of each tile.

Launches, each of which a CUDA graph may hold: the host waits for nothing and tells nothing. A row takes part
in those it needs, and costs the others a look at its parameters:

    peak              every row     each tile's largest logit and its lowest id; the first to read the logits
    count 0, 1, 2     with top_k    bins of the logits; of the logits in the bin found; again
    mass 0            drawn rows    each tile's weight above the k-th logit, and its ties
    weigh 0, 1, 2     with top_p    the same bins for weights
    mass 1            with top_p    each tile's weight above the lightest, and its ties
    draw              every row     one tile

So over the logits go 1 pass for the largest, 2 (and a tile) at a temperature, 5 with top_k, 6 with top_p and
9 with both; all but the first find them in the L2 cache as far as that is large enough, and with top_k only
tiles that hold one of the k are weighed. Weights are computed again in each pass, some 30 operations, rather
than written out. For few atomic additions, logits below the k-th largest of the tiles' largest are left out
of count 0 (where k <= T), and of weigh 0 those that together weigh no more than what may be cut off.
State: 8 (5 T + 8192 + 16) bytes a row, 72 KB for 152k logits in tiles of 1024.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels import sampling_passes as passes
from kernels import tuned
from kernels.backend import power_of_two
from kernels.sampling_tiles import BINS, SLOTS


class DeviceRows(NamedTuple):
    """N tokens to choose: tensors [N]. All zero is the place of the largest logit of row 0."""

    heat: Tensor  # float32, 1 / temperature; 0: the place of the largest logit
    top_p: Tensor  # float64; 1 and above: no limit
    top_k: Tensor  # int64; 0 and below, V and above: no limit
    least: Tensor  # int64, kernels.sampling.least_weight(min_p)
    seed: Tensor  # int64, the seed's 64 bits
    position: Tensor  # int64, absolute
    choice: Tensor  # int64
    row: Tensor  # int64, of the logits


class Needs(NamedTuple):
    """What some row may ask for. Launches for what none does are left out."""

    draws: bool = True
    top_k: bool = True
    top_p: bool = True


def sample(logits: Tensor, rows: DeviceRows, out: Tensor, needs: Needs = Needs()) -> Tensor:  # noqa: B008
    """The token of each of ``rows`` [N] into ``out`` [N], int64; -1 where its row of ``logits`` [R, V] holds
    NaN or +inf, or nothing but -inf. ``logits`` are float32, or narrower and widened exactly.

    ``needs`` is a promise about all that ``rows`` will ever hold while a captured graph is replayed.
    """
    count, vocab = len(rows.row), logits.shape[1]
    assert logits.ndim == 2, logits.shape
    assert logits.stride(1) == 1, logits.stride()
    assert 0 < vocab < 1 << 30, vocab
    assert out.shape == (count,), out.shape
    assert out.dtype == torch.int64, out.dtype
    assert out.stride() == (1,), out.stride()
    for name, field in rows._asdict().items():
        dtype = {"heat": torch.float32, "top_p": torch.float64}.get(name, torch.int64)
        assert field.shape == (count,), (name, field.shape)
        assert field.dtype == dtype, (name, field.dtype)
        assert field.is_contiguous(), name
    if count == 0:
        return out
    use = tuned.config(
        "sampling",
        {"vocab": vocab, "rows": tuned.bucket(count)},
        # 5 programs on each of 132 multiprocessors: 96 registers a thread. 16 in the first pass, where 31 are
        # enough: a program has asked for 4 KB at a time, and the memory wants some 3 MB asked of it
        {"tile": 1024, "programs": 660, "readers": 2112, "num_warps": 4},
        logits.device,
    )
    tiles = -(-vocab // use["tile"])
    size = 5 * tiles + BINS + 2 * SLOTS
    state = torch.empty(count * size, dtype=torch.int64, device=logits.device)
    every, readers = ((count, max(1, min(tiles, use[of] // count))) for of in ("programs", "readers"))
    fixed: dict[str, Any] = {
        "T": tiles,
        "T_PAD": power_of_two(tiles),
        "TILE": use["tile"],
        "SIZE": size,
        "num_warps": use["num_warps"],
        "enable_fp_fusion": False,
    }
    given = (logits, logits.stride(0), vocab, *rows, state, out)
    passes.peak_kernel[readers](*given, **fixed)
    if needs.draws and needs.top_k:
        for digit in range(3):
            passes.count_kernel[every](*given, ROUND=digit, **fixed)
    if needs.draws:
        passes.mass_kernel[every](*given, NUCLEUS=False, **fixed)
    if needs.draws and needs.top_p:
        for digit in range(3):
            passes.weigh_kernel[every](*given, ROUND=digit, **fixed)
        passes.mass_kernel[every](*given, NUCLEUS=True, **fixed)
    passes.draw_kernel[(count,)](*given, **fixed)
    return out
