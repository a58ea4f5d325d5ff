"""What a request is to the nodes, and what is to be done about it: the words that ``router.dispatch`` speaks.

Plain facts; each action is carried out by ``router.requests``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pagewire.errors import PagewireError
from pagewire.mailbox import Peer
from pagewire.messages import Cancel, PrefillRequest, RequestId, TokenItem
from pagewire.sampling import SamplingParams
from router.placement import Pair, Query


@dataclass(frozen=True, slots=True)
class Job:
    """What the client asked, resolved: ``sampling.max_tokens`` is set, ``deadline`` is absolute."""

    request: RequestId
    tokens: list[int]
    sampling: SamplingParams
    seed: int
    cache_salt: str
    deadline: float
    recovery_s: float = 8.0
    priority: int = 0


class Open(NamedTuple):
    """Send ``message`` to ``pair.prefill``. If it cannot be reached, it is ``lost``."""

    pair: Pair
    query: Query
    message: PrefillRequest


class Stop(NamedTuple):
    peer: Peer
    message: Cancel


class Handed(NamedTuple):
    """The decode node has taken over: prefill's part of this attempt is done."""

    attempt: int


class Closed(NamedTuple):
    attempt: int


class ChoiceEnd(NamedTuple):
    """``reason`` is "stop", "length", "abort" or "error"."""

    choice: int
    reason: str
    stop_token: int = -1


class End(NamedTuple):
    """The request is over. ``error`` is None if every choice ended by itself."""

    error: PagewireError | None


Action = TokenItem | Open | Stop | Handed | Closed | ChoiceEnd | End
