"""What a placement is predicted to cost, in milliseconds.

Pure functions over a snapshot of the pools: the router asks them about the nodes that serve, a planner may
ask them about nodes that do not exist. Knows rates, tokens and what nodes report; knows no clock and decides
nothing.

    through a prefill node   queue there + reading what it does not hold, for itself and whoever comes next
                             + what the handoff adds to that + what writing costs at the decode node
    the decode node alone    the same without a handoff, and all streams there wait while the prompt is read
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pagewire.mailbox import Peer
from pagewire.messages import DECODE
from pagewire.rates import NAMES, READING, Rates
from pagewire.topology import shared
from router.distances import Way
from router.fleet import Node
from router.ledger import Ledger

HORIZON = 32  # tokens of an answer whose delay counts: what one more sequence costs, and costs the others
BEHIND = 0.5  # of the time that a prompt takes, for each that is there: as many will come and wait for it
MOST_BEHIND = 8
HIDDEN = 0.2  # of the work on bytes that travel while the prompt is read: it is not waited for, and not free
REPORTED_S = 2.0  # after which a node's report has what it was sent: a heartbeat, and a step that was long
FULL_MS = 10_000.0  # that a decode node takes to make all its room free, roughly
UNMEASURED = 1.5  # times what prefill nodes take, while a decode node has not read a prompt itself


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be read and written. ``held``: leading tokens of it that each node has."""

    tokens: int
    reserve: int
    held: Mapping[Peer, int]

    def new(self, node: Node) -> int:
        """Tokens that ``node`` would have to compute: the last one always, or there would be no logits."""
        size = node.hello.page_size
        return self.tokens - min(self.held.get(node.peer, 0), max(0, self.tokens - 1) // size * size)


@dataclass(frozen=True, slots=True)
class Costs:
    """The prices of one fleet at one moment, ``now``. ``rates`` are each node's, measured or guessed, and
    ``ways`` what handoffs took by distance, as far as that was measured."""

    now: float
    ledger: Ledger
    rates: Mapping[Peer, Rates]
    ways: Mapping[int, Way] = field(default_factory=dict)

    @classmethod
    def of(
        cls, now: float, ledger: Ledger, nodes: Iterable[Node], ways: Mapping[int, Way] | None = None
    ) -> Costs:
        """A rate that a node did not measure is the mean of those of its role that did."""
        there = {node.peer: node for node in nodes}
        prefills = _mean([node for node in there.values() if node.role != DECODE], Rates())
        slower = {name: UNMEASURED * getattr(prefills, name) for name in READING}
        decodes = _mean([node for node in there.values() if node.role == DECODE], replace(prefills, **slower))
        return cls(now, ledger, _Paces(there, prefills, decodes), ways or {})

    def through(self, prompt: Prompt, prefill: Node, decode: Node) -> float:
        [[cost]] = self.table(prompt, [prefill], [decode])
        return cost

    def table(self, prompt: Prompt, prefills: Iterable[Node], decodes: Sequence[Node]) -> list[list[float]]:
        """Of each prefill node with each decode node; what belongs to one of them is asked once."""
        writing = [self.writing_ms(prompt, decode) for decode in decodes]
        lacking = [(decode, prompt.new(decode)) for decode in decodes]
        costs = []
        for prefill in prefills:
            reading = self.reading_ms(prompt, prefill)
            before = self.queue_ms(prefill) + reading * (1 + self.behind(prefill))
            sending = [self.sending_ms(prefill, decode, new, reading) for decode, new in lacking]
            costs.append([before + moved + written for moved, written in zip(sending, writing, strict=True)])
        return costs

    def alone(self, prompt: Prompt, decode: Node) -> float:
        """Those who write there wait for each step that reads, all in all as long as the reading takes. At
        least one other is counted: it may come meanwhile."""
        reading = self.reading_ms(prompt, decode)
        waiting = max(1, self.running(decode))
        return self.queue_ms(decode) + reading * (1 + waiting) + self.writing_ms(prompt, decode)

    def ttft_ms(self, prompt: Prompt, reader: Node, decode: Node) -> float:
        """When the client sees the first token: whoever reads the prompt samples it."""
        return self.room_ms(prompt, decode) + self.queue_ms(reader) + self.reading_ms(prompt, reader)

    # --- the parts ------------------------------------------------------------------------------------------

    def queue_ms(self, node: Node) -> float:
        """What is to be read there before: of what this router sent, by its own books, as much as the node
        still reports, and what others sent."""
        reported, ledger, peer = node.load.queued_tokens, self.ledger, node.peer
        ours = min(ledger.unread[peer], reported + ledger.unread_since(peer, self.now - REPORTED_S))
        others = max(0, reported - ledger.prefilling[peer])
        token_ms = node.measured.get(READING[1])  # asked of many nodes of which nothing else is
        return (ours + others) * (self._rates(node).read_token_ms if token_ms is None else token_ms)

    def behind(self, node: Node) -> float:
        """What reading costs those who come later, beside itself: the more, the longer there is a queue."""
        there = max(node.load.waiting, self.ledger.reading(node.peer))
        return BEHIND * (1 + min(MOST_BEHIND, there))

    def reading_ms(self, prompt: Prompt, node: Node) -> float:
        rates, new = self._rates(node), prompt.new(node)
        before = prompt.tokens - new
        area = new * (before + new / 2) / 1000
        return rates.read_step_ms + rates.read_token_ms * new + rates.read_context_ms * area

    def sending_ms(self, prefill: Node, decode: Node, tokens: int, reading_ms: float) -> float:
        """What a handoff of ``tokens`` adds: their bytes go while the prompt is read."""
        way = self._way(prefill, decode)
        megabytes = tokens * prefill.hello.layout.token_bytes / 1e6
        moving = megabytes * way.handoff_mb_ms
        return way.handoff_ms + max(0.0, moving - reading_ms) + HIDDEN * min(moving, reading_ms)

    def writing_ms(self, prompt: Prompt, decode: Node) -> float:
        """What the company costs: this sequence waits for the others in each step, and they for it."""
        pressure = 2 * HORIZON * self._rates(decode).write_row_ms * self.running(decode)
        return pressure + self.room_ms(prompt, decode)

    def room_ms(self, prompt: Prompt, decode: Node) -> float:
        """How long it will wait for pages there."""
        total = max(1, decode.hello.num_pages * decode.hello.page_size)
        missing = prompt.reserve - self.free_tokens(decode)
        return FULL_MS * min(1.0, missing / total) if missing > 0 else 0.0

    def free_tokens(self, decode: Node) -> int:
        """By the node's report and by this router's books, whichever is less."""
        size = decode.hello.page_size
        after_ours = decode.hello.num_pages * size - self.ledger.decoding[decode.peer]
        return min(decode.load.pages_free * size, after_ours)

    def running(self, decode: Node) -> int:
        return max(decode.load.running, self.ledger.writing[decode.peer])

    def _rates(self, node: Node) -> Rates:
        return self.rates[node.peer]

    def _way(self, prefill: Node, decode: Node) -> Way | Rates:
        """What handoffs over that distance took, or else those of the prefill node over all its ways."""
        distance = shared(prefill.place, decode.place) if self.ways else None
        way = None if distance is None else self.ways.get(distance)
        return self._rates(prefill) if way is None else way


class _Paces(dict[Peer, Rates]):
    """Each node's, put together when they are first asked for."""

    def __init__(self, nodes: Mapping[Peer, Node], prefills: Rates, decodes: Rates) -> None:
        self._nodes, self._prefills, self._decodes = nodes, prefills, decodes

    def __missing__(self, peer: Peer) -> Rates:
        node = self._nodes[peer]
        guess = self._decodes if node.role == DECODE else self._prefills
        self[peer] = made = replace(guess, **node.measured)
        return made


def _mean(nodes: list[Node], otherwise: Rates) -> Rates:
    """Of each rate, over the nodes that measured it."""
    values = {name: [n.measured[name] for n in nodes if name in n.measured] for name in NAMES}
    return replace(otherwise, **{name: sum(each) / len(each) for name, each in values.items() if each})
