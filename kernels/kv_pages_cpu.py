"""Moves of KV between pages and slabs on the CPU, a whole page at a time.

The slots of consecutive tokens lie in runs: what is left of a first page, whole pages, the beginning of a
last one. In one layer's K or V a page is one run of bytes, so that a move is a few large copies instead of
one a token. Slots in any other order are moved one by one, as pages of one token. Knows bytes and slots only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class Runs(NamedTuple):
    """How slots lie: ``head`` that follow each other, then whole pages, and from ``stop`` on a last run."""

    head: int
    stop: int
    unit: int  # slots of a page
    pages: Ints  # slot // unit of each whole page


def rows_of(kv: torch.Tensor) -> Bytes:
    """``kv[L, 2, pages, page_size, Hkv, D]`` as it is seen here: rows [L * 2, slots, bytes of a slot]."""
    assert kv.is_contiguous(), kv.stride()
    layers, _, pages, page_size, heads, dim = kv.shape
    rows: Bytes = kv.view(layers * 2, pages * page_size, heads * dim).view(torch.uint8).numpy()
    return rows


def gather_cpu(rows: Bytes, slots: Ints, page_size: int, out: Bytes) -> None:
    """Copy the slab of ``slots[n]`` to the bytes ``out``. Reads and writes as many bytes as ``out`` has."""
    slab, runs = _seen(rows, slots, page_size, out)
    for here, there in _ends(slots, runs):
        slab[:, here] = rows[:, there]
    pages, body = _paged(rows, runs.unit), _paged(slab[:, runs.head : runs.stop], runs.unit)
    if body.flags.c_contiguous:
        # Any mode but "raise" copies straight into ``body``; the range has been looked at.
        np.take(pages, runs.pages, axis=1, out=body, mode="clip")
    else:
        for at, page in enumerate(runs.pages.tolist()):
            body[:, at] = pages[:, page]


def scatter_cpu(rows: Bytes, slots: Ints, page_size: int, data: Bytes) -> None:
    """Write the slab ``data`` to ``slots[n]``, all different: what ``gather_cpu`` reads back."""
    slab, runs = _seen(rows, slots, page_size, data)
    for here, there in _ends(slots, runs):
        rows[:, there] = slab[:, here]
    _paged(rows, runs.unit)[:, runs.pages] = _paged(slab[:, runs.head : runs.stop], runs.unit)


def runs_of(slots: Ints, page_size: int) -> Runs:
    """Any slots in any order have runs; at worst each is one of its own."""
    n = len(slots)
    head = min(n, int(-slots[0]) % page_size) if n else 0
    stop = n - (n - head) % page_size
    body = slots[head:stop].reshape(-1, page_size)
    first = body[:, :1]
    paged = not (first % page_size).any() and bool((body == first + np.arange(page_size)).all())
    if paged and _consecutive(slots[:head]) and _consecutive(slots[stop:]):
        return Runs(head, stop, page_size, first[:, 0] // page_size)
    return Runs(0, n, 1, slots)


def _seen(rows: Bytes, slots: Ints, page_size: int, data: Bytes) -> tuple[Bytes, Runs]:
    """``data`` as [planes, n, bytes of a slot], and how the slots lie. A negative slot is a huge one here."""
    assert not len(slots) or slots.view(np.uint64).max() < rows.shape[1], (slots, rows.shape)
    return data.reshape(len(rows), len(slots), rows.shape[2]), runs_of(slots, page_size)


def _ends(slots: Ints, runs: Runs) -> Iterator[tuple[slice, slice]]:
    """The runs before and behind the whole pages: where in the slab, where in the rows."""
    for start, stop in (0, runs.head), (runs.stop, len(slots)):
        if start < stop:
            yield slice(start, stop), slice(int(slots[start]), int(slots[start]) + stop - start)


def _paged(rows: Bytes, unit: int) -> Bytes:
    """A view of ``rows[planes, n * unit, bytes]`` as ``[planes, n, unit * bytes]``."""
    planes, n, width = rows.shape
    view = rows.reshape(planes, n // unit, unit * width)
    assert view.size == 0 or np.may_share_memory(view, rows), "a copy would lose what is written to it"
    return view


def _consecutive(slots: Ints) -> bool:
    return len(slots) == 0 or bool((np.diff(slots) == 1).all())
