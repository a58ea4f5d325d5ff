"""Tokens that the device draws while the host does something else.

What the last draw chose stays on the device, where the next step reads it (``embed``), and travels to the
host beside the work that follows. Knows rows of logits and what is asked of them; knows no sequence and no
batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.sampling_triton import DeviceRows
from pagewire.engine.sampler import (
    NOT_FINITE,
    InvalidLogits,
    Sampled,
    SampleRow,
    device_rows,
    sample_ahead,
)
from pagewire.engine.upload import Upload

See = Callable[[], list[list[Sampled] | InvalidLogits]]


class Drawing:
    def __init__(self, device: torch.device, most_rows: int) -> None:
        """``most_rows``: of one draw."""
        self.tokens = torch.zeros(most_rows, dtype=torch.int64, device=device)
        """[most_rows] what the last draw chose, row by row; -1: not finite. This memory never moves."""
        self._upload = Upload(device)

    def draw(self, logits: Tensor, rows: list[SampleRow]) -> See:
        """Choose a token for each row of ``logits`` [R, V], each ``on_device`` and of one choice. The call
        that is returned waits for them.
        """
        assert len(rows) <= len(self.tokens)
        assert all(row.on_device and len(row.choices) == 1 for row in rows)
        drawn = sample_ahead(logits, DeviceRows(*self._upload(*device_rows(rows))))
        self.tokens[: len(rows)].copy_(drawn)
        arrived = _to_host(drawn)

        def see() -> list[list[Sampled] | InvalidLogits]:
            return [NOT_FINITE if token < 0 else [Sampled(token)] for token in arrived().tolist()]

        return see


def _to_host(tensor: Tensor) -> Callable[[], Tensor]:
    if tensor.device.type == "cpu":
        return lambda: tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    event = torch.cuda.current_stream(tensor.device).record_event()

    def wait() -> Tensor:
        event.synchronize()
        return host

    return wait
