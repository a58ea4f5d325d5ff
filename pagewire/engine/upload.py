"""Small arrays on their way to the device, many in one asynchronous copy.

A copy costs microseconds whatever its size, and one out of ordinary memory makes the host wait. So the arrays
of a step are packed into a pinned block and sent at once; what comes back are views of the device's copy. A
block is filled again when the copy out of it is done, and blocks are used in turn, so a host that is one step
ahead waits for nobody. On the CPU the arrays are the tensors. Knows arrays; knows no step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGN = 16  # bytes: what a vector load of the kernels wants
BLOCKS = 3  # one that is filled, one for each step that may be under way

Array = NDArray[Any]


class _Block(NamedTuple):
    memory: Tensor  # uint8, pinned
    copied: torch.cuda.Event | None


class Upload:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._blocks: deque[_Block] = deque(
            _Block(torch.empty(0, dtype=torch.uint8), None) for _ in range(BLOCKS)
        )

    def __call__(self, *arrays: Array) -> list[Tensor]:
        """Each array as a tensor on the device, good until the device memory is freed."""
        if self._device.type == "cpu":
            return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
        places = offsets(arrays)
        block = self._block(places[-1])
        pack(arrays, places, block.memory.numpy())
        sent = torch.empty(places[-1], dtype=torch.uint8, device=self._device)
        sent.copy_(block.memory[: places[-1]], non_blocking=True)
        stream = torch.cuda.current_stream(self._device)
        self._blocks.append(block._replace(copied=stream.record_event()))
        return unpack(arrays, places, sent)

    def _block(self, size: int) -> _Block:
        """The block that was used longest ago, made larger if need be."""
        block = self._blocks.popleft()
        if block.copied is not None:
            block.copied.synchronize()
        if len(block.memory) >= size:
            return block
        larger = 1 << max(12, (size - 1).bit_length())
        return _Block(torch.empty(larger, dtype=torch.uint8, pin_memory=True), None)


def offsets(arrays: Sequence[Array]) -> list[int]:
    """Where each array begins in a block, in bytes, and where the block ends."""
    places = [0]
    for array in arrays:
        places.append(places[-1] + -(-array.nbytes // _ALIGN) * _ALIGN)
    return places


def pack(arrays: Sequence[Array], places: Sequence[int], block: NDArray[np.uint8]) -> None:
    for array, place in zip(arrays, places, strict=False):
        block[place : place + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def unpack(arrays: Sequence[Array], places: Sequence[int], block: Tensor) -> list[Tensor]:
    """Views of ``block`` with the shapes and dtypes of ``arrays``."""
    return [
        block[place : place + a.nbytes].view(torch.from_numpy(np.empty(0, a.dtype)).dtype).view(a.shape)
        for a, place in zip(arrays, places, strict=False)
    ]
