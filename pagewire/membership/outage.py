"""While redis is away: when to try again, and when that is worth a line in the log.

Pure: failures, successes and ``now`` in, lines and waits out. Knows no redis and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S, LONGEST_S = 0.1, 5.0  # what a wait is at most, after the first failure and after many
AGAIN_S = 60.0  # between two lines


@dataclass(slots=True)
class Outage:
    """``shown`` is what people call it. Times are in the caller's seconds."""

    shown: str
    _tries: int = 0
    _since: float | None = None
    _told: float | None = None  # when the last line was due
    _open: bool = False  # the last line said that it is away

    def fell(self, now: float, why: str) -> str | None:
        """It failed, once more or for the first time. The warning that is due, if one is."""
        self._tries += 1
        self._since = now if self._since is None else self._since
        if self._told is not None and now - self._told < AGAIN_S:
            return None
        self._told, self._open = now, True
        since = f" for {now - self._since:.0f} s" if now - self._since >= 1 else ""
        return f"the directory {self.shown} is away{since}: {why}; the last known routers stand"

    def back(self, now: float) -> str | None:
        """It works. The line that is due, if the log says otherwise."""
        away = 0.0 if self._since is None else now - self._since
        was_open, self._open = self._open, False
        self._tries, self._since = 0, None
        return f"the directory {self.shown} is back after {away:.1f} s" if was_open else None

    def wait_s(self, draw: float) -> float:
        """How long to wait before the next try. ``draw``, from 0 to 1, spreads many processes evenly."""
        longest = min(LONGEST_S, FIRST_S * (1 << min(16, max(0, self._tries - 1))))
        return max(0.01, draw * longest)
