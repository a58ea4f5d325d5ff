"""Which pages lie in the prefix caches of which nodes, as they tell it and as this router expects it.

Pure: messages and ``now`` in, answers out. Knows labels (``pagewire.page_chain``), peers and page counts;
knows no prompt and no score. A label names a whole beginning, so that one dict is a radix tree: the longest
run of labels from the first on that a node holds is what it need not compute.

A prompt that was just sent somewhere will lie there soon. Its labels are *foreseen* until the node tells of
them, or until ``FORESEEN_S`` after they should be there: of two requests that begin alike, in one instant,
the second can follow the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from pagewire.mailbox import Peer
from pagewire.messages import PagesChanged, PagesWanted
from pagewire.page_chain import unpack
from router.held import Held, Level

FORESEEN_S = 10.0
ASK_AGAIN_S = 5.0  # a node that did not answer is asked once more
MAX_FORESEEN = 1 << 16  # labels that are expected at once: the first to end are given up for new ones
MAX_PAGES = 1 << 22  # labels of all nodes together; what goes beyond is not remembered


@dataclass(slots=True)
class _Known:
    """A node. ``pages`` are its labels, each with the time until which it is foreseen; infinite: told.

    ``bit`` stands for it in the index. ``heard`` is when its stream last went on, ``next`` the number due.
    """

    peer: Peer
    bit: int
    page_size: int
    limit: int
    heard: float
    stream: int = 1
    next: int = 0
    pages: dict[bytes, float] = field(default_factory=dict)


class _Foreseen(NamedTuple):
    until: float
    peer: Peer
    label: bytes


class PrefixIndex:
    def __init__(self) -> None:
        self._nodes: dict[Peer, _Known] = {}
        self._by_bit: dict[int, Peer] = {}
        self._sizes: dict[int, int] = {}  # page size -> the bits of the nodes that have it
        self._holders: dict[bytes, int] = {}  # label -> the bits of those that hold it
        self._foreseen: list[_Foreseen] = []  # a heap: the first to end is in front
        self._entries = 0

    def __len__(self) -> int:
        """Labels, each counted once a node."""
        return self._entries

    # --- nodes come, tell and go ----------------------------------------------------------------------------

    def join(self, now: float, peer: Peer, page_size: int, num_pages: int) -> PagesWanted:
        """``peer`` is here, perhaps once more. Send it the answer."""
        stream = self._nodes[peer].stream + 1 if peer in self._nodes else 1
        self.forget(peer)
        taken = sum(self._sizes.values())
        bit = ~taken & (taken + 1)  # the lowest that is free
        self._by_bit[bit] = peer
        self._sizes[page_size] = self._sizes.get(page_size, 0) | bit
        self._nodes[peer] = _Known(peer, bit, page_size, num_pages, now, stream)
        return PagesWanted(stream)

    def forget(self, peer: Peer) -> None:
        """``peer`` is gone, and what it held with it."""
        if (known := self._nodes.get(peer)) is not None:
            self._clear(known)
            del self._nodes[peer], self._by_bit[known.bit]
            self._sizes[known.page_size] ^= known.bit
            if not self._sizes[known.page_size]:
                del self._sizes[known.page_size]

    def changed(self, now: float, peer: Peer, message: PagesChanged) -> PagesWanted | None:
        """``peer`` tells what changed. The answer, if there is one, asks it to begin anew."""
        known = self._nodes.get(peer)
        if known is None or message.stream != known.stream:
            return None
        if message.sequence != known.next:
            return self._ask(now, known)
        if message.sequence == 0:
            self._clear(known)
        known.heard, known.next = now, known.next + 1
        for label in unpack(message.added):
            self._put(known, label, math.inf)
        for label in unpack(message.evicted):
            self._drop(known, label)
        return None

    def overdue(self, now: float) -> list[tuple[Peer, PagesWanted]]:
        """Those that were asked and did not begin to answer, and what to send them."""
        silent = [k for k in self._nodes.values() if k.next == 0 and now - k.heard >= ASK_AGAIN_S]
        return [(known.peer, self._ask(now, known)) for known in silent]

    def foresee(self, now: float, peer: Peer, labels: Iterable[bytes], in_s: float = 0.0) -> None:
        """A prompt of these labels is on its way to ``peer``, which should have read it ``in_s`` from now."""
        self.expire(now)
        until = now + in_s + FORESEEN_S
        if (known := self._nodes.get(peer)) is None:
            return
        for label in labels:
            if known.pages.get(label) == math.inf:
                continue
            if len(self._foreseen) >= MAX_FORESEEN:
                self._give_up(heappop(self._foreseen))
            self._put(known, label, until)
            heappush(self._foreseen, _Foreseen(until, peer, label))

    def expire(self, now: float) -> None:
        while self._foreseen and self._foreseen[0].until <= now:
            self._give_up(heappop(self._foreseen))

    # --- the question ---------------------------------------------------------------------------------------

    def match(self, labels: Callable[[int], Iterable[bytes]]) -> Held:
        """Leading tokens of a prompt that each node holds, leaving out those that hold none. ``labels`` are
        the prompt's for a page size; they are read as far as any node holds them."""
        levels: list[Level] = []
        for size, going in self._sizes.items():
            depth = 0
            for label in labels(size):
                still = going & self._holders.get(label, 0)
                if still != going and depth:
                    levels.append(Level(depth * size, going & ~still))
                if not still:
                    break
                going, depth = still, depth + 1
            else:
                if depth:
                    levels.append(Level(depth * size, going))
        return Held(levels, self)

    def bit_of(self, peer: Peer) -> int:
        """What stands for it in a ``Level``; 0 if it is not known."""
        known = self._nodes.get(peer)
        return 0 if known is None else known.bit

    def peers_of(self, bits: int) -> Iterator[Peer]:
        while bits:
            lowest = bits & -bits
            yield self._by_bit[lowest]
            bits ^= lowest

    # --- labels ---------------------------------------------------------------------------------------------

    def _ask(self, now: float, known: _Known) -> PagesWanted:
        """What is known of it may still help until the answer comes."""
        known.stream, known.next, known.heard = known.stream + 1, 0, now
        return PagesWanted(known.stream)

    def _put(self, known: _Known, label: bytes, until: float) -> None:
        if label not in known.pages:
            if len(known.pages) >= 2 * known.limit or self._entries >= MAX_PAGES:
                return
            self._entries += 1
            self._holders[label] = self._holders.get(label, 0) | known.bit
        known.pages[label] = until

    def _drop(self, known: _Known, label: bytes) -> None:
        if known.pages.pop(label, None) is None:
            return
        self._entries -= 1
        if left := self._holders[label] & ~known.bit:
            self._holders[label] = left
        else:
            del self._holders[label]

    def _clear(self, known: _Known) -> None:
        for label in list(known.pages):
            self._drop(known, label)

    def _give_up(self, foreseen: _Foreseen) -> None:
        """Unless it was told or foreseen anew since."""
        known = self._nodes.get(foreseen.peer)
        if known is not None and known.pages.get(foreseen.label) == foreseen.until:
            self._drop(known, foreseen.label)
