"""The arrays of one step: what the scheduler decided, in the form that the model reads.

Knows sequences and page tables; knows no torch. Everything about a row is in its own entries, so that a row's
result cannot depend on its neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
