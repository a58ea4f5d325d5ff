"""What one event costs a router by the number of nodes: CPU time of the code that serves, without a socket.

Knows fleets that are made up; knows no load. Each figure is the best of several rounds: the machine's other
work and the caches' mood only add to it.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from thousand_nodes import LAYOUT, SCALE

from pagewire.layout import KVLayout
from pagewire.mailbox import TO_NODE, TO_ROUTER, Peer
from pagewire.messages import (
    DECODE,
    PREFILL,
    Beat,
    DecodeTarget,
    Epoch,
    Hello,
    Load,
    NodeId,
    PagesChanged,
    PrefillRequest,
    RequestId,
)
from pagewire.page_chain import Labels, pack
from pagewire.sampling import SamplingParams
from router.actions import Open
from router.canary import Canary
from router.fleet import Fleet
from router.metrics import Metrics
from router.placement import Query, Rules
from router.placing import Placing
from router.prefix_index import PrefixIndex
from router.room import capacity_of

PAGE, TOKENS = 16, 8192
SYSTEM = 1024  # leading tokens that every node holds
GAUGES = 45  # of a heartbeat, about as many as a node sends
NONE: frozenset[Peer] = frozenset()


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of one event each, but for ``nodes``."""

    nodes: int
    hashing: float  # of the prompt's pages, once a request
    choose: float  # all that comes after the hashing
    match: float  # of that, looking up who holds what
    opened: float  # books and foreseen pages, and taking them back
    beat: float  # a node's heartbeat: read, and taken in
    answer: float  # a router's heartbeat to one node, without the socket
    label: float  # one page that came or went on one node
    hello: float
    sums: float  # capacity_of: 20 times a second at most
    sweep: float  # 20 times a second
    canary: float  # 20 times a second
    metrics: float  # one page of /metrics


def best(act: Callable[[int], object], times: int, rounds: int = 5) -> float:
    found, number = float("inf"), count()
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            act(next(number))
        found = min(found, (time.process_time() - began) / times)
    return found * 1e6


class Yard:
    """A router's books over ``nodes`` nodes, one in eight of which decodes, all of them busy."""

    def __init__(self, nodes: int) -> None:
        self.fleet, dice = Fleet(NodeId("r"), Epoch("e"), "0.1.0"), random.Random(1)
        layout = KVLayout(LAYOUT.layers // SCALE, LAYOUT.kv_heads, LAYOUT.head_dim, LAYOUT.dtype, "m")
        metrics = Metrics(self.fleet, lambda: 0, lambda: 0, lambda: 0)
        self.metrics = metrics
        self.placing = Placing(self.fleet, lambda peer, wanted: None, Rules(), metrics)
        self.canary, self.beats, ids = Canary(self.fleet, 20.0, lambda: f"{next(ids):032x}"), [], count()
        for number in range(nodes):
            role = DECODE if number % 8 == 7 else PREFILL
            name = Peer(NodeId(f"{role}-{number}"), Epoch("0123456789abcdef"))
            address = f"tcp://10.0.0.{number}:7600" if role == DECODE else ""
            facts = (*name, role, "0.1.0", 1, layout, address, "m", 1 << 17, 1 << 16, PAGE)
            self.last = Hello(*facts, topology=f"zone-{number % 3}/rack-{number // 16}/host-{number}")
            self.fleet.hello(0.0, name, self.last)
            gauges = {f"transfer_{n}": dice.random() for n in range(GAUGES - 5)}
            told = ["read_step_ms", "read_token_ms", "read_context_ms"]
            told += ["write_step_ms", "write_row_ms"] if role == DECODE else ["handoff_ms", "handoff_mb_ms"]
            gauges |= {name: 0.02 * (1 + dice.random()) for name in told}
            queued, running = dice.randrange(20_000), dice.randrange(64)
            load = Load(queued // 8192, running, queued, 1 << 15, 1 << 16, gauges=gauges)
            self.beats.append(Beat(*name, load, role))
            self.fleet.beat(0.0, name, self.beats[-1])
            self.placing.joined(0.0, name)
        self.prompt = [dice.randrange(30_000) for _ in range(TOKENS)]
        labels = list(Labels(self.prompt, "", PAGE))
        for number, node in enumerate(list(self.fleet.nodes.values())):
            held = labels if number % 97 == 5 else labels[: SYSTEM // PAGE]
            self.placing.told(0.0, node.peer, PagesChanged(*node.peer, 1, 0, pack(held), b""))

    def choose(self, number: int) -> Open:
        query = Query(self.prompt, TOKENS + 512, request=f"{number:032x}")
        pair = self.placing.choose(0.0, query, NONE)
        assert pair is not None
        target = DecodeTarget(*pair.decode, pair.address)
        facts = (
            RequestId(query.request),
            0,
            [0],
            self.prompt,
            TOKENS,
            SamplingParams(max_tokens=1),
            0,
            "",
            1,
        )
        return Open(pair, query, PrefillRequest(*facts, target))

    def placed(self, number: int) -> None:
        """And ended at once."""
        action = self.choose(number)
        self.placing.opened(0.0, action)
        self.placing.closed(action.query.request, 0, action.pair)


def costs_of(nodes: int) -> Costs:
    yard = Yard(nodes)
    index, fleet = yard.placing.index, yard.fleet
    labels = list(Labels(yard.prompt, "", PAGE))
    raw = [TO_ROUTER.encode(beat) for beat in yard.beats]
    ours = Beat(NodeId("r"), Epoch("e"), Load(running=5))
    clock = count(1000)

    def beat(number: int) -> None:
        message = TO_ROUTER.decode(raw[number % nodes])
        fleet.beat(0.0, Peer(message.node, message.epoch), message)

    choose = best(yard.choose, 50)
    return Costs(
        nodes=nodes,
        hashing=best(lambda number: list(Labels(yard.prompt, "", PAGE)), 20),
        choose=choose,
        match=best(lambda number: index.match(lambda size: labels), 50),
        opened=best(yard.placed, 20) - choose,
        beat=best(beat, 300),
        answer=best(lambda number: TO_NODE.encode(ours), 300),
        label=_label(index, fleet),
        hello=best(lambda number: fleet.hello(0.0, Peer(yard.last.node, yard.last.epoch), yard.last), 20),
        sums=best(lambda number: capacity_of(fleet), 20),
        sweep=best(lambda number: fleet.sweep(0.0), 20),
        canary=best(lambda number: yard.canary.tick(next(clock) * 1.01), 10),
        metrics=best(lambda number: yard.metrics.page(), 1, 3),
    )


def _label(index: PrefixIndex, fleet: Fleet) -> float:
    """Pages come and go, 64 at a time, with the message that tells it."""
    peer = next(iter(fleet.nodes.values())).peer
    numbers = count(1)

    def told(number: int) -> None:
        labels = pack([(64 * number + n).to_bytes(8, "big") for n in range(64)])
        for come, gone in ((labels, b""), (b"", labels)):
            message = TO_ROUTER.encode(PagesChanged(*peer, 1, next(numbers), come, gone))
            index.changed(0.0, peer, TO_ROUTER.decode(message))

    return best(told, 50) / 128


def index_bytes(nodes: int, pages: int, shared: int) -> float:
    """Bytes that a label takes in a router's index, of ``nodes`` nodes of ``pages`` pages, the first
    ``shared`` of which are everybody's."""
    tracemalloc.start()
    index = PrefixIndex()
    before = tracemalloc.get_traced_memory()[0]
    for node in range(nodes):
        peer = Peer(NodeId(f"node-{node}"), Epoch("e"))
        index.join(0.0, peer, PAGE, pages)
        own = [
            (number if number < shared else node << 32 | number).to_bytes(8, "big") for number in range(pages)
        ]
        index.changed(0.0, peer, PagesChanged(*peer, 1, 0, b"".join(own), b""))
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / len(index)
