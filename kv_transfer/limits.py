"""How much a receiver takes on, and how long either side waits. Frozen numbers; no clock."""

from __future__ import annotations

from dataclasses import dataclass

from kv_transfer.wire import MAX_BODY_BYTES, MAX_TOKENS
from pagewire.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A receiver's bounds. Bytes under way are at most ``inflight_bytes`` in all, ``credit_bytes`` a
    transfer.

    Every granted transfer may always have one frame of ``frame_bytes`` under way, so none waits for another.
    What ``inflight_bytes`` hold beyond that is for those whose frames are coming in.
    """

    max_open: int = 128
    max_tokens: int = MAX_TOKENS
    frame_bytes: int = 2 << 20
    credit_bytes: int = 16 << 20
    inflight_bytes: int = 384 << 20
    tombstones: int = 4096  # ended transfers that are remembered, so that late frames are known as such

    def __post_init__(self) -> None:
        if not 1 <= self.frame_bytes <= min(MAX_BODY_BYTES, self.credit_bytes):
            raise ConfigError(f"frame_bytes must be from 1 to {MAX_BODY_BYTES} and at most credit_bytes")
        if self.max_open < 1 or self.max_open * self.frame_bytes > self.inflight_bytes:
            raise ConfigError("inflight_bytes must hold one frame for each of max_open transfers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds. Every state is bounded by the transfer's own deadline; the last ones also by ``stall_s``."""

    retry_s: float = 1.0  # RESERVE, COMMIT and CREDIT are said again after this long without an answer
    stall_s: float = 10.0  # longest time without progress once everything is computed
    probe_s: float = 0.2  # how often the transport is asked which peers are gone
