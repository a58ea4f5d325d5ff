"""A piece of a step, captured: the host gives it to the GPU in one call.

Where there is no CUDA the "graph" is the piece itself, so that tests walk the same path. Knows callables and
memory; knows no step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Replay = Callable[[], object]
Ints = NDArray[np.int32 | np.int64]


class Captures:
    """Graphs that take their memory from one pool: capture the largest first, the others find room in its.

    They are replayed one at a time, and what one leaves in the pool is good until another is replayed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __call__(self, piece: Callable[[], object]) -> Replay:
        """``piece`` must leave its results in memory of its caller's, and must not touch the host."""
        if self._pool is None:
            return piece
        piece()  # what is compiled or set up on first use may not be captured
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        collects = gc.isenabled()
        gc.disable()  # a graph of an earlier engine that is dropped now would spoil this one
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                piece()
        finally:
            if collects:
                gc.enable()
        return graph.replay


def padded(array: Ints, size: int, value: int) -> Ints:
    """``array`` made longer with ``value``."""
    return np.concatenate([array, np.full(size - len(array), value, array.dtype)])
