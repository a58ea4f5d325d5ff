"""Which pairs of nodes do not reach each other, as far as handoffs that failed have told.

Pure: events and ``now`` in, answers out. Knows pairs of peers, each in one of its lives, and the names of
attempts; knows no message and no score.

A pair that failed is avoided for a tenth of the time for which it has been cut, for ``first_s`` at least and
``longest_s`` at most. After that one attempt at a time may ask: while one is on its way, the others go on
avoiding the pair. It is remembered until a handoff comes through, or one of the two lives ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pagewire.mailbox import Peer

FIRST_S = 3.0
LONGEST_S = 60.0
_SHARE = 10  # a pair that was cut for a minute is back within 10 s of its healing

Link = tuple[Peer, Peer]  # prefill, decode
Attempt = tuple[str, int]  # request, number


@dataclass(slots=True)
class _Cut:
    """``asking`` are the attempts on the pair that were opened since it last failed."""

    since: float
    failed_at: float
    asking: set[Attempt] = field(default_factory=set)


@dataclass(slots=True)
class Reach:
    """The memory of one router. Times are in the caller's seconds."""

    first_s: float = FIRST_S
    longest_s: float = LONGEST_S
    _cuts: dict[Link, _Cut] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._cuts)

    # --- questions ------------------------------------------------------------------------------------------

    def avoids(self, now: float, link: Link) -> bool:
        """True if another pair is to be preferred to ``link``."""
        cut = self._cuts.get(link)
        return cut is not None and (now < self._until(cut) or bool(cut.asking))

    def sure(self, link: Link) -> bool:
        """True if ``link`` failed again after it had been found cut: that was more than a hiccup."""
        cut = self._cuts.get(link)
        return cut is not None and cut.failed_at > cut.since

    def failed_at(self, link: Link) -> float:
        """When ``link`` last failed; before all times if it is not remembered."""
        cut = self._cuts.get(link)
        return float("-inf") if cut is None else cut.failed_at

    # --- events ---------------------------------------------------------------------------------------------

    def opened(self, link: Link, attempt: Attempt) -> None:
        if (cut := self._cuts.get(link)) is not None:
            cut.asking.add(attempt)

    def failed(self, now: float, link: Link, attempt: Attempt) -> bool:
        """The nodes of ``attempt`` did not reach each other. True if that is news.

        An attempt that was opened before the pair's last failure says nothing new: the same cut ends all that
        are under way.
        """
        cut = self._cuts.get(link)
        if cut is None:
            self._cuts[link] = _Cut(now, now)
        elif attempt in cut.asking:
            self._cuts[link] = _Cut(cut.since, now)
        return cut is None

    def closed(self, link: Link, attempt: Attempt) -> None:
        """``attempt`` has ended, perhaps without a word about the pair. Idempotent."""
        if (cut := self._cuts.get(link)) is not None:
            cut.asking.discard(attempt)

    def reached(self, link: Link) -> bool:
        """A handoff came through. True if that is news."""
        return self._cuts.pop(link, None) is not None

    def forget(self, peer: Peer) -> None:
        """``peer`` is gone, in this life at least."""
        for link in [link for link in self._cuts if peer in link]:
            del self._cuts[link]

    def _until(self, cut: _Cut) -> float:
        share = (cut.failed_at - cut.since) / _SHARE
        return cut.failed_at + min(max(share, self.first_s), self.longest_s)
