"""Slot numbers in the device's memory: brought there once, read by the gathers and scatters of all layers.

A transfer names the same tokens once for each group of layers. What was brought is found again by its bytes,
so nothing need be told when slots change hands: an entry is the numbers that it holds, whoever's they are.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray

from pagewire.engine.staging_lane import Lane, Queue

Ints = NDArray[np.int64]
_ENTRIES, _LEAST, _BYTES = 256, 8, 4 << 20


class SlotIndex:
    """Up to ``entries`` rows of at most ``tokens`` slots, for kernels on ``queue``; by default as many rows
    as a few MiB hold.

    Happens-before. A row on the device is written and read on ``queue`` only: the copy that gives it other
    numbers comes after all reads of the old ones. The host's row is read by that copy alone, and ``brought``
    lies behind it: the host waits for it before it writes there again. The row used longest ago is taken, so
    that is long past unless ``entries`` is tiny.
    """

    def __init__(self, lane: Lane, queue: Queue, tokens: int, entries: int | None = None) -> None:
        tokens += tokens % 2  # so that each row begins at 16 bytes
        count = entries or max(_LEAST, min(_ENTRIES, _BYTES // (8 * tokens)))
        self._lane, self._queue = lane, queue
        self._host = lane.host(count * tokens * 8).view(torch.int64).view(count, tokens)
        self._device = lane.device(count * tokens * 8).view(torch.int64).view(count, tokens)
        self._shown = [self._device[row, :0] for row in range(count)]  # of each row, what is in use
        self._brought = [lane.fence("brought") for _ in range(count)]
        self._free = list(range(count))
        self._rows: OrderedDict[bytes, int] = OrderedDict()  # used longest ago first

    def of(self, slots: Ints) -> torch.Tensor:
        """``slots`` [n] in the device's memory, for what is given to the queue before the next call."""
        slots = np.ascontiguousarray(slots, np.int64)
        key = slots.tobytes()
        if (row := self._rows.pop(key, None)) is None:
            row = self._free.pop() if self._free else self._rows.popitem(last=False)[1]
            self._bring(row, slots)
        self._rows[key] = row
        return self._shown[row]

    def _bring(self, row: int, slots: Ints) -> None:
        fence, size = self._brought[row], len(slots)
        assert 0 < size <= self._device.shape[1], size
        fence.wait()
        host, device = self._host[row, :size], self._device[row, :size]
        self._shown[row] = device
        host.numpy()[:] = slots
        self._lane.run(self._queue, lambda: device.copy_(host, non_blocking=True))
        fence.set(self._queue)
