"""Where a token's KV lies: slot = page * page_size + offset. Knows arithmetic only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def slots_of(pages: list[int], tokens: int, page_size: int, start: int = 0) -> NDArray[np.int64]:
    """Slots of the tokens at positions [start, tokens) of a sequence whose pages, in order, are ``pages``."""
    positions = np.arange(start, tokens, dtype=np.int64)
    table = np.asarray(pages, dtype=np.int64)
    return table[positions // page_size] * page_size + positions % page_size
