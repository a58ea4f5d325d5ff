"""The arrays of one step: what the scheduler decided, in the form that the model reads.

Knows sequences and page tables; knows no torch. Everything about a row is in its own entries, so that a row's
result cannot depend on its neighbours.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagewire.engine.scheduler import Work

Ints = NDArray[np.int64]


class Batch(NamedTuple):
    """T tokens of S sequences, sequence after sequence. ``slot`` = page * page_size + offset."""

    token_ids: Ints  # [T]
    positions: Ints  # [T] absolute, from 0
    slots: Ints  # [T] where each token's K and V go
    query_starts: Ints  # [S + 1] row range of each sequence
    context_lens: Ints  # [S] tokens whose KV is present once this step has stored its own
    page_tables: Ints  # [S, P] page numbers, padded with 0
    logit_rows: Ints  # [R] rows whose logits are wanted


def build(work: list[Work], page_size: int) -> Batch:
    """The batch of one plan's ``work``, which is not empty. P is the most pages that one context spans."""
    assert work
    starts = np.array([w.start for w in work], dtype=np.int64)
    ends = np.array([w.end for w in work], dtype=np.int64)
    lengths = ends - starts
    query_starts = np.zeros(len(work) + 1, dtype=np.int64)
    np.cumsum(lengths, out=query_starts[1:])
    row_seq = np.repeat(np.arange(len(work)), lengths)  # [T] which sequence each row belongs to
    positions = np.arange(query_starts[-1]) - (query_starts[:-1] - starts)[row_seq]
    page_tables = _page_tables(work, -(-ends // page_size))
    slots = page_tables[row_seq, positions // page_size] * page_size + positions % page_size
    tokens = chain.from_iterable(w.seq.tokens[w.start : w.end] for w in work)
    return Batch(
        np.fromiter(tokens, np.int64, len(positions)),
        positions,
        slots,
        query_starts,
        ends,
        page_tables,
        _logit_rows(work, query_starts),
    )


def _page_tables(work: list[Work], counts: Ints) -> Ints:
    """[S, P] page numbers: the first ``counts`` [S] of each lease, padded with 0."""
    tables = np.zeros((len(work), int(counts.max())), dtype=np.int64)
    for row, w, count in zip(tables, work, counts.tolist(), strict=True):
        assert w.seq.lease is not None
        assert len(w.seq.lease.pages) >= count
        row[:count] = w.seq.lease.array()[:count]
    return tables


def _logit_rows(work: list[Work], query_starts: Ints) -> Ints:
    """[R] the last ``logit_rows`` rows of each work, in order."""
    ends = query_starts[1:].tolist()
    rows = chain.from_iterable(range(end - w.logit_rows, end) for w, end in zip(work, ends, strict=True))
    return np.array([*rows], dtype=np.int64)
