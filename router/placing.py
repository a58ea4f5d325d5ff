"""Where requests go, and all that is remembered for it: books, prefix caches, ways that are cut.

A shell around ``router.placement``, which decides. Knows peers and messages; knows no text and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from pagewire.mailbox import Peer
from pagewire.messages import PagesChanged, PagesWanted, Spans
from pagewire.page_chain import Labels
from pagewire.topology import shared
from router.actions import Open
from router.distances import Distances
from router.fleet import Fleet
from router.ledger import Ledger
from router.metrics import Metrics
from router.placement import Pair, Query, Rules, Tried, View, choose
from router.prefix_index import PrefixIndex
from router.reach import Reach

FORESEEN_PAGES = 1024  # of a prompt: what lies behind them is known when the nodes tell it

Send = Callable[[Peer, PagesWanted], object]


class Placing:
    """``send`` reaches a node, or not: then it is asked again later."""

    def __init__(self, fleet: Fleet, send: Send, rules: Rules, metrics: Metrics) -> None:
        self.ledger = Ledger()
        self.reach = Reach()
        self.index = PrefixIndex()
        self._fleet = fleet
        self._send = send
        self._rules = rules
        self._metrics = metrics
        self._distances = Distances()
        self._prompt: tuple[Sequence[int], str] = ([], "")  # whose labels these are
        self._labels: dict[int, Labels] = {}  # by page size

    def choose(self, now: float, query: Query, tried: Tried) -> Pair | None:
        self.index.expire(now)
        held: Mapping[Peer, int] = {}
        if self._looks and query.cached:
            held = self.index.match(lambda size: self._labels_of(query, size))
        ways = self._distances.ways
        return choose(View(now, self._fleet, self.ledger, self.reach, held, ways), query, tried, self._rules)

    # --- requests -------------------------------------------------------------------------------------------

    def opened(self, now: float, action: Open) -> None:
        request, attempt = action.message.request, action.message.attempt
        pair, query = action.pair, action.query
        prompt, link, reserve = len(query.tokens), pair[:2], query.reserve
        unread = prompt - pair.why.cached
        self.ledger.opened(now, request, attempt, link, prompt=prompt, unread=unread, reserve=reserve)
        self.reach.opened(link, (request, attempt))
        self._metrics.placed.labels(pair.why.reason).inc()
        if self._looks:
            for peer in dict.fromkeys(link):
                self.index.foresee(now, peer, self._foreseen(query, peer), pair.why.ttft_ms / 1000)

    def handed(self, request: str, attempt: int) -> None:
        self.ledger.handed(request, attempt)

    def closed(self, request: str, attempt: int, pair: Pair) -> None:
        self.ledger.closed(request, attempt)
        self.reach.closed(pair[:2], (request, attempt))

    def handed_over(self, spans: Spans, pair: Pair | None) -> None:
        """A prefill node tells what a handoff to its decode node took; None: of an attempt of nobody."""
        distance = None if pair is None else self._distance(pair)
        self._distances.heard(distance, spans)
        self._metrics.handed_over(spans, distance)

    def _distance(self, pair: Pair) -> int | None:
        prefill, decode = map(self._fleet.get, pair[:2])
        return None if prefill is None or decode is None else shared(prefill.place, decode.place)

    # --- nodes ----------------------------------------------------------------------------------------------

    def joined(self, now: float, peer: Peer) -> None:
        node = self._fleet.get(peer)
        if node is not None and node.hello.prefix_caching and self._looks:
            self._send(peer, self.index.join(now, peer, node.hello.page_size, node.hello.num_pages))

    def lost(self, peer: Peer) -> None:
        self.index.forget(peer)
        if self._fleet.get(peer) is None:  # else it lives, and has only begun a new session
            self.reach.forget(peer)

    def told(self, now: float, peer: Peer, message: PagesChanged) -> None:
        if (wanted := self.index.changed(now, peer, message)) is not None:
            self._send(peer, wanted)

    def tick(self, now: float) -> None:
        for peer, wanted in self.index.overdue(now):
            self._send(peer, wanted)

    # --- the prompt at hand ---------------------------------------------------------------------------------

    @property
    def _looks(self) -> bool:
        """Whether prefix caches matter to anybody."""
        return self._rules.placement == "prefix" or self._rules.disaggregate == "auto"

    def _labels_of(self, query: Query, page_size: int) -> Labels:
        """Hashed once for looking and for remembering: both have the same list of tokens."""
        tokens, salt = self._prompt
        if tokens is not query.tokens or salt != query.cache_salt:
            self._prompt, self._labels = (query.tokens, query.cache_salt), {}
        if page_size not in self._labels:
            self._labels[page_size] = Labels(query.tokens, query.cache_salt, page_size)
        return self._labels[page_size]

    def _foreseen(self, query: Query, peer: Peer) -> Iterable[bytes]:
        node = self._fleet.get(peer)
        return islice(self._labels_of(query, node.hello.page_size), FORESEEN_PAGES) if node else ()
