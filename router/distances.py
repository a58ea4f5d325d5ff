"""What handoffs take by how far apart their nodes are, from what prefill nodes tell of each.

Pure. A distance is the number of leading parts that the nodes' topologies share (``pagewire.topology``):
nodes of one rack are like others of one rack. Knows milliseconds and bytes; knows no node and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pagewire.messages import Spans
from pagewire.rates import HANDING
from pagewire.timeline import RESERVE, TRANSFER_BYTES, TRANSFER_EXPOSED, TRANSFER_HIDDEN

SEEN = 3  # handoffs before what they took is believed
_SHARE = 0.1  # of each new handoff in the mean, once there were as many
_MOST_MS = 1e6  # that can be true
MOST_WAIT_MS = 50.0  # a longer wait for room says how full the other side was, not how far away
_PARTS = (RESERVE, TRANSFER_HIDDEN, TRANSFER_EXPOSED)


class Way(NamedTuple):
    """What a handoff adds, and what a MB of it takes; as in ``pagewire.rates``."""

    handoff_ms: float
    handoff_mb_ms: float


@dataclass(slots=True)
class _Mean:
    seen: int = 0
    ms: float = 0.0
    worked_ms: float = 0.0
    megabytes: float = 0.0

    def took(self, ms: float, worked_ms: float, megabytes: float) -> None:
        self.seen += 1
        share = max(_SHARE, 1 / self.seen)
        self.ms += share * (ms - self.ms)
        self.worked_ms += share * (worked_ms - self.worked_ms)
        self.megabytes += share * (megabytes - self.megabytes)


@dataclass(slots=True)
class Distances:
    """Means by distance. Those of ``ways`` were measured; the others are not there."""

    ways: dict[int, Way] = field(default_factory=dict)
    _means: dict[int, _Mean] = field(default_factory=dict)

    def heard(self, distance: int | None, spans: Spans) -> None:
        """A prefill node tells of a handoff, perhaps of one that is not over."""
        size = spans.counts.get(TRANSFER_BYTES, 0)
        waited, hidden, exposed = (spans.ms.get(name, 0.0) for name in _PARTS)
        if distance is None or size <= 0 or not all(0 <= ms < _MOST_MS for ms in (waited, hidden, exposed)):
            return
        mean = self._means.setdefault(distance, _Mean())
        mean.took(min(waited, MOST_WAIT_MS) + exposed, hidden + exposed, size / 1e6)
        if mean.seen >= SEEN:
            self.ways[distance] = Way(mean.ms, mean.worked_ms / mean.megabytes)


assert Way._fields == HANDING
