"""Which node had better offer the other role, so that more requests meet their targets.

Pure: what waits and runs, how fast nodes are, and ``now`` in; at most one move out. Knows counts and
milliseconds; knows no request and no socket.

For each way to split the nodes that can move it is predicted how many requests would have their first token
in time, and how many their next ones, from what is to be read and written now:

    first token   what waits is read by P nodes at once, so a newcomer waits for ``unread / P``, and that is
                  the mean of an exponential law: who comes to an empty queue does not wait, who comes in a
                  burst waits longer. In time are 1 - exp(-left / mean), where ``left`` is what the target
                  leaves beside reading the prompt itself.
    next tokens   D nodes write in steps of ``running / D`` rows. In time are all as long as a step is much
                  shorter than the target, half where it is as long, none beyond (a steep curve, not a cliff:
                  there is always a better and a worse split).

The product is the attainment of a split. A move has to be better by ``GAIN`` for ``PATIENCE`` looks in a
row, and comes ``REST_S`` after the last one at the earliest: that is the hysteresis, and it costs some
seconds of a traffic shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

GAIN = 0.05  # of all requests
PATIENCE = 3  # looks in a row
LOOK_S = 1.0
REST_S = 8.0
STEEP = 4.0  # how fast attainment falls around the target of a step


@dataclass(frozen=True, slots=True)
class Targets:
    """Milliseconds to a first token, and between two tokens."""

    ttft_ms: float
    itl_ms: float


class Split(NamedTuple):
    """Nodes that read, and nodes that write."""

    prefill: int
    decode: int

    def __str__(self) -> str:
        return f"{self.prefill}P+{self.decode}D"


@dataclass(frozen=True, slots=True)
class Pressure:
    """What there is to do. ``unread``: tokens of prompts that wait, here and at the nodes; ``prompt``: tokens
    of a prompt, in the mean; ``running``: sequences that are written. The last three say how fast a node is.
    """

    unread: int
    prompt: float
    running: int
    read_token_ms: float
    write_step_ms: float
    write_row_ms: float

    def ttft_ms(self, split: Split) -> float:
        """Of a newcomer, in the mean."""
        return (self.unread / split.prefill + self.prompt) * self.read_token_ms

    def itl_ms(self, split: Split) -> float:
        return self.write_step_ms + self.write_row_ms * self.running / split.decode

    def attainment(self, split: Split, targets: Targets) -> float:
        """The share of requests that is predicted to meet both targets, from 0 to 1."""
        left = targets.ttft_ms - self.prompt * self.read_token_ms
        waiting = self.unread * self.read_token_ms / split.prefill
        first = 0.0 if left <= 0 else 1.0 if not waiting else 1 - math.exp(-left / waiting)
        return first / (1 + math.pow(self.itl_ms(split) / targets.itl_ms, STEEP))


class Advice(NamedTuple):
    """Move one node to ``role``. ``why`` is a line for people."""

    role: str
    why: str


@dataclass(slots=True)
class Autorole:
    """Asked about once in ``LOOK_S``. Times are in the caller's seconds."""

    targets: Targets
    _better: str = ""  # the role that one more node has been wanted for
    _looks: int = 0  # so many times in a row
    _moved_at: float = -math.inf

    def look(self, now: float, split: Split, movable: Split, pressure: Pressure) -> Advice | None:
        """``movable``: how many nodes of each role can take the other one."""
        role, to = self._best(split, movable, pressure)
        gain = pressure.attainment(to, self.targets) - pressure.attainment(split, self.targets)
        if gain < GAIN:
            role = ""
        self._looks = self._looks + 1 if role == self._better else 1
        self._better = role
        if not role or self._looks < PATIENCE or now - self._moved_at < REST_S:
            return None
        self._moved_at, self._looks, self._better = now, 0, ""
        return Advice(role, self._why(split, to, pressure))

    def _best(self, split: Split, movable: Split, pressure: Pressure) -> tuple[str, Split]:
        """The better of the two splits that are one move away."""
        ways = []
        if movable.decode and split.decode > 1:
            ways.append(("prefill", Split(split.prefill + 1, split.decode - 1)))
        if movable.prefill and split.prefill > 1:
            ways.append(("decode", Split(split.prefill - 1, split.decode + 1)))
        if not ways:
            return "", split
        return max(ways, key=lambda way: pressure.attainment(way[1], self.targets))

    def _why(self, split: Split, to: Split, pressure: Pressure) -> str:
        def told(split: Split) -> str:
            first, gap = pressure.ttft_ms(split), pressure.itl_ms(split)
            share = pressure.attainment(split, self.targets)
            return f"{split}: TTFT {first:.0f} ms, ITL {gap:.0f} ms, {share:.0%} in time"

        return f"{pressure.unread} tokens to read, {pressure.running} to write; {told(split)}; {told(to)}"


class Smoothed(NamedTuple):
    """What nodes have in hand swings with every batch: a mean over the last seconds is looked at."""

    unread: float = 0.0
    running: float = 0.0

    def with_(self, pressure: Pressure, share: float) -> Smoothed:
        return Smoothed(
            self.unread + share * (pressure.unread - self.unread),
            self.running + share * (pressure.running - self.running),
        )

    def of(self, pressure: Pressure) -> Pressure:
        return replace(pressure, unread=round(self.unread), running=round(self.running))
