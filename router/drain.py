"""How fast what waits is taken by the nodes, as seen from the queue.

Pure. Only time in which something waits tells what the nodes can do; so a rate that was seen is believed
until then, and before any was seen one is supposed. Rates are kept relative to ``nominal``, what the nodes
were built for, so that they stand when a node comes or goes. Knows tokens and seconds; knows no request.
"""

from __future__ import annotations

import math

MEMORY_S = 4.0  # of such time, after which a third of what was seen still counts
PRIOR_S = 1.0  # of seeing the nominal rate, to begin with
LEAST = 0.02  # of the nominal rate: nodes that do nothing for a while are still nodes


class Drain:
    def __init__(self) -> None:
        self._taken = PRIOR_S  # in seconds of the nominal rate
        self._seconds = PRIOR_S

    def passed(self, seconds: float) -> None:
        """So long there was something."""
        kept = math.exp(-seconds / MEMORY_S)
        self._taken *= kept
        self._seconds = self._seconds * kept + seconds

    def took(self, nominal_s: float) -> None:
        """The nodes took what they should take in ``nominal_s``."""
        self._taken += nominal_s

    def rate(self, nominal: float) -> float:
        """Tokens a second."""
        return nominal * max(LEAST, self._taken / self._seconds)
