"""How many bytes each transfer may have under way, and all together. Pure arithmetic.

Each open window always holds credit for one frame, or for all that it still needs if that is less; so no
transfer can starve another. What is left over goes to those whose frames are really coming in, up to
``credit_bytes`` each. Conservation: ``used`` is the sum of ``held`` over all open windows, and never above
``inflight_bytes``.
"""

from __future__ import annotations

from dataclasses import dataclass

from kv_transfer.limits import Limits


@dataclass(slots=True, eq=False)
class Window:
    """One transfer's credit, in bytes since its start: ``taken`` <= ``allowed`` <= ``need``."""

    need: int
    allowed: int = 0
    taken: int = 0

    @property
    def held(self) -> int:
        """Bytes that may be under way now."""
        return self.allowed - self.taken


class CreditPool:
    """``frame_bytes`` are set aside for each of ``max_open`` windows; the rest is shared out as extra."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open = 0
        self._spare = limits.inflight_bytes - limits.max_open * limits.frame_bytes
        self.used = 0

    def open(self, need: int) -> Window:
        """A window for a transfer of ``need`` bytes, with its first credit."""
        assert self._open < self._limits.max_open, "the receiver opens no more than max_open"
        window = Window(need)
        self._open += 1
        self._raise_to(window, min(need, self._limits.frame_bytes))
        return window

    def take(self, window: Window, size: int) -> None:
        """``size`` bytes have arrived and been put away; their credit goes back, and the window may grow."""
        assert 0 <= size <= window.held
        self._spare += self._extra(window)
        window.taken += size
        self.used -= size
        wanted = min(window.need - window.taken, self._limits.credit_bytes)
        self._raise_to(window, min(wanted, self._limits.frame_bytes + self._spare))
        self._spare -= self._extra(window)
        assert self._spare >= 0

    def close(self, window: Window) -> None:
        self._spare += self._extra(window)
        self.used -= window.held
        self._open -= 1

    def _extra(self, window: Window) -> int:
        return max(0, window.held - self._limits.frame_bytes)

    def _raise_to(self, window: Window, held: int) -> None:
        more = max(0, held - window.held)
        window.allowed += more
        self.used += more
        assert 0 <= self.used <= self._limits.inflight_bytes
