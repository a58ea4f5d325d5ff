"""Where KV bytes come from and go to, as seen from here: slots and slabs, no tensor and no page.

A slot is ``page * page_size + offset`` in the node's own pool. A slab is the C-contiguous bytes of
``[layers, 2, tokens, kv_heads, head_dim]`` for the given slots, one a token, in their order.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kv_transfer.wire import Body

Slots = NDArray[np.int64]


class Copy(Protocol):
    """A slab that is being read out of the pages."""

    def ready(self) -> bool:
        """True if ``take`` need not wait."""
        ...

    def take(self, out: memoryview) -> None:
        """Put the slab into ``out``, which is just as long, and end. ``out`` is not kept: it may lie in
        memory that another process reads afterwards.
        """
        ...

    def drop(self) -> None:
        """It is not wanted any more; does nothing after ``take``."""
        ...


class Mark(Protocol):
    """A place in what was given to be computed."""

    def passed(self) -> bool:
        """True if all before it is in the pages."""
        ...


class PageSource(Protocol):
    def mark(self) -> Mark:
        """Behind all that was given to be computed so far: a device may be far from it."""
        ...

    def begin(self, slots: Slots, layers: slice) -> Copy | None:
        """Begin to read the slab of ``slots`` [T] and ``layers``, computed before a mark that has been
        passed; None if too many are under way.

        What the pages hold now is what is read, or, until ``take``, what they hold then: their owner gives
        them to nobody else before ``take`` or ``drop``.
        """
        ...


class PageSink(Protocol):
    def write(self, slots: Slots, layers: slice, data: Body) -> None:
        """Put the slab ``data`` into ``slots`` [T] and ``layers``, before returning. ``data`` is not kept.

        It lies in host memory, or where the node's own device brought it and has found its checksum.
        """
        ...
