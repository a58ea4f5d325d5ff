"""The items of a decode step, listed on the device: (row, split) pairs that hold a key to see.

``plan_decode`` is launched once a step for all layers of a kind, and may be captured in a graph: the host
knows only a bound on their number. Knows contexts and tables; knows no key.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from kernels import tuned
from kernels.backend import jit, power_of_two, tl

MOST_ROWS = 1024  # of a step, else its kernel is compiled again


class DecodePlan(NamedTuple):
    """The step's items on the device, and the memory that each layer in turn puts its parts in."""

    context_lens: torch.Tensor  # [B] int32; 0: no row
    page_tables: torch.Tensor  # [B, P] int32
    rows: torch.Tensor  # [B] int32 row of q and out
    starts: torch.Tensor  # [B + 1] int32 first item of each row; the last: how many there are
    owners: torch.Tensor  # [most_items] int32 row in 0..B of each item
    parts: torch.Tensor  # [most_items, Hq, D] float32
    sums: torch.Tensor  # [most_items, Hq, 2] float32: maximum, weight
    page_size: int
    window: int | None
    use: tuned.Use


def items_of(context_lens: Iterable[int], window: int | None, split: int) -> int:
    """How many items ``plan_decode`` will find."""
    return sum(-(-c // split) - (0 if window is None else max(0, c - window) // split) for c in context_lens)


def most_items(batch: int, most_tokens: int, window: int | None, split: int) -> int:
    """The most that ``batch`` contexts of ``most_tokens`` tokens in all can have."""
    most = batch + most_tokens // split
    return most if window is None else min(most, batch * (window // split + 2))


def plan_decode(
    context_lens: torch.Tensor,
    page_tables: torch.Tensor,
    page_size: int,
    most_items: int,
    *,
    heads: int,
    dim: int,
    use: tuned.Use,
    window: int | None = None,
    rows: torch.Tensor | None = None,
) -> DecodePlan:
    """Launch what lists the items of ``context_lens[B]`` int32 over ``page_tables[B, P]`` int32.

    May be captured: it reads neither on the host. ``rows[B]`` int32 are the rows of q, by default 0..B-1.
    There must be at most ``most_items``, which the caller knows of its contexts; ones beyond are left out.
    """
    batch, device = context_lens.shape[0], context_lens.device
    assert context_lens.dtype == page_tables.dtype == torch.int32, (context_lens.dtype, page_tables.dtype)
    assert page_tables.shape[0] == batch > 0, (context_lens.shape, page_tables.shape)
    assert page_tables.stride(1) == 1, page_tables.stride()
    assert use["SPLIT"] % use["BLOCK_N"] == 0, use
    if rows is None:
        rows = torch.arange(batch, dtype=torch.int32, device=device)
    starts = torch.empty(batch + 1, dtype=torch.int32, device=device)
    owners = torch.empty(most_items, dtype=torch.int32, device=device)
    _plan_kernel[(batch + 1,)](
        context_lens,
        starts,
        owners,
        batch,
        most_items,
        WINDOW=window or 0,
        SPLIT=use["SPLIT"],
        BLOCK_B=max(MOST_ROWS, power_of_two(batch)),
        num_warps=4,
    )
    parts = torch.empty(most_items, heads, dim, dtype=torch.float32, device=device)
    sums = torch.empty(most_items, heads, 2, dtype=torch.float32, device=device)
    return DecodePlan(
        context_lens, page_tables, rows, starts, owners, parts, sums, page_size, window, dict(use)
    )


@jit(do_not_specialize=["batch", "most_items"])
def _plan_kernel(
    context_lens,
    starts,
    owners,
    batch,
    most_items,
    WINDOW: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Program r adds up the items of the rows before r, and writes r to its own; program B writes the sum."""
    mine, row = tl.program_id(0), tl.arange(0, BLOCK_B)
    context = tl.load(context_lens + row, mask=row < batch, other=0)
    count = (context + SPLIT - 1) // SPLIT
    if WINDOW > 0:
        count -= tl.maximum(context - WINDOW, 0) // SPLIT
    start = tl.sum(tl.where(row < mine, count, 0), axis=0)
    own = tl.sum(tl.where(row == mine, count, 0), axis=0)
    tl.store(starts + mine, tl.minimum(start, most_items))
    i = tl.arange(0, 128)
    for first in range(0, own, 128):
        item = start + first + i
        tl.store(
            owners + item, tl.zeros([128], tl.int32) + mine, mask=(item < start + own) & (item < most_items)
        )
