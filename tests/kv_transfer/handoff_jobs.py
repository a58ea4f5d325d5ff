"""What the handoff's state machine knows of its transfers, and what must hold of each frame that leaves.

Knows what was computed and published, layer by layer: the oracle. Knows no sender, receiver or network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from staged_pages import KV

from kv_transfer import wire
from kv_transfer.store import Slots


@dataclass(eq=False)
class Job:
    """One transfer at the sender's node. Its source slots are its own until it ends."""

    kv: KV
    source: Slots
    ready: list[int] = field(default_factory=list)  # tokens that are published, by layer; never grows with it
    granted: str = ""  # the receiver's epoch, once the sender's node was told
    have: int = 0
    committed: bool = False
    end: str = ""
    sent: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))  # [layers, tokens]
    frames: int = 0

    def __post_init__(self) -> None:
        self.sent = np.zeros((self.layers, self.tokens), np.bool_)
        self.unpublish()

    @property
    def layers(self) -> int:
        return self.kv.shape[0]

    @property
    def tokens(self) -> int:
        return self.kv.shape[2]

    @property
    def streaming(self) -> bool:
        return bool(self.granted) and not self.committed and not self.end

    def unpublish(self) -> None:
        self.ready = [0] * self.layers

    def readable(self, slots: Slots, layers: slice) -> bool:
        """True if the sender may read there."""
        published = self.source[: min(self.ready[layers])]
        return bool(self.granted) and not self.end and set(slots.tolist()) <= set(published.tolist())

    def slab(self, tokens: slice, layers: slice) -> bytes:
        return self.kv[layers, :, tokens].tobytes()

    def data(self, frame: wire.Data, body: bytes, group: int) -> None:
        """DATA leaves: published bytes, each once, in order, and of one group of layers."""
        tokens, layers = (
            slice(frame.token_start, frame.token_stop),
            slice(frame.layer_start, frame.layer_stop),
        )
        assert self.granted
        assert not self.end, "DATA of what has ended"
        assert frame.seq == self.frames
        assert layers.start // group == (layers.stop - 1) // group, "a frame of two groups"
        assert self.have <= tokens.start < tokens.stop <= min(self.ready[layers]), "sent, and not published"
        assert not self.sent[layers, tokens].any(), "sent twice"
        assert self.sent[layers, self.have : tokens.start].all(), "a token is left out"
        assert body == self.slab(tokens, layers), "other bytes than were published"
        self.sent[layers, tokens] = True
        self.frames += 1

    def commit(self, frame: wire.Commit) -> None:
        """COMMIT leaves, for the first time or again: behind everything else."""
        assert self.committed
        assert self.sent[:, self.have :].all(), "COMMIT before the last DATA"
        assert frame.frames == self.frames


@dataclass
class Landing:
    """One transfer in one life of the receiver."""

    target: Slots | None = None  # while the receiver may write there
    have: int = 0
    landed: bool = False
    end: str = ""
