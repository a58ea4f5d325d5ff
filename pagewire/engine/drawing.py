"""Tokens that the device draws while the host does something else.

What the last draw chose stays on the device, where the next step reads it (``embed``), and travels to the
host beside the work that follows. Knows rows of logits and what is asked of them; knows no sequence and no
batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.sampling_triton import DeviceRows
from pagewire.engine.sampler import (
    NOT_FINITE,
    InvalidLogits,
    Sampled,
    SampleRow,
    device_rows,
    needs_of,
    sample_ahead,
)
from pagewire.engine.upload import Upload


class Drawn:
    """Tokens on their way to the host."""

    def __init__(self, tokens: Tensor) -> None:
        self._tokens, self._arrived = tokens, Mark(tokens.device)
        if tokens.device.type == "cuda":
            self._tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._tokens.copy_(tokens, non_blocking=True)
            self._arrived = Mark(tokens.device)

    def ready(self) -> bool:
        return self._arrived.passed()

    def see(self) -> list[list[Sampled] | InvalidLogits]:
        """Wait for them. One of a row that was not finite is InvalidLogits."""
        self._arrived.wait()
        return [NOT_FINITE if token < 0 else [Sampled(token)] for token in self._tokens.tolist()]


class Mark:
    """A place behind all that the device was given so far. The CPU is always there."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

    def passed(self) -> bool:
        return self._event is None or bool(self._event.query())

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


class Drawing:
    def __init__(self, device: torch.device, most_rows: int) -> None:
        """``most_rows``: of one draw."""
        self.tokens = torch.zeros(most_rows, dtype=torch.int64, device=device)
        """[most_rows] what the last draw chose, row by row; -1: not finite. This memory never moves."""
        self._upload = Upload(device)

    def draw(self, logits: Tensor, rows: list[SampleRow]) -> Drawn:
        """Choose a token for each row of ``logits`` [R, V], each ``on_device`` and of one choice."""
        assert len(rows) <= len(self.tokens)
        assert all(row.on_device and len(row.choices) == 1 for row in rows)
        asked = device_rows(rows)
        drawn = sample_ahead(logits, DeviceRows(*self._upload(*asked)), needs=needs_of(asked))
        self.tokens[: len(rows)].copy_(drawn)
        return Drawn(drawn)
