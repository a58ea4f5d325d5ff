"""Where KV bytes come from and go to, as seen from here: slots and slabs, no tensor and no page.

A slot is ``page * page_size + offset`` in the node's own pool. A slab is the C-contiguous bytes of
``[layers, 2, tokens, kv_heads, head_dim]`` for the given slots, one a token, in their order.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kv_transfer.wire import Buffer

Slots = NDArray[np.int64]


class PageSource(Protocol):
    def read_into(self, slots: Slots, layers: slice, out: memoryview) -> None:
        """Put the slab of ``slots`` [T] and ``layers`` into ``out``, which is just as long, before returning.

        ``out`` is not kept: it may lie in memory that another process reads afterwards.
        """
        ...


class PageSink(Protocol):
    def write(self, slots: Slots, layers: slice, data: Buffer) -> None:
        """Put the slab ``data`` into ``slots`` [T] and ``layers``, before returning. ``data`` is not kept."""
        ...
