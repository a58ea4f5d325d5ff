"""What traffic asks of routers: from the cost of events to cores, and to how many routers.

Pure arithmetic. What a token and a request cost beside their placement is measured in
docs/benchmarks/router.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from thousand_costs import PAGE, TOKENS, Costs

TOKEN_US = 24.0  # of its own
REQUEST_US = 1000.0  # HTTP, text and metrics
READ_US, SEND_US = 85.0, 15.0  # a heartbeat by a socket, both ways: see the section "lines"
BEATS = 2.0  # a second, each way
FULL = 0.7  # of a core that a router may be busy


@dataclass(frozen=True, slots=True)
class Traffic:
    """Tokens of a request, and the share of the prompt that nodes had. ``node_tokens``: answers' tokens that
    a node of the fleet stands for in a second, all roles counted."""

    name: str
    prompt: int
    answer: int
    hit: float
    node_tokens: float = 640.0

    def requests(self, nodes: int) -> float:
        return nodes * self.node_tokens / self.answer

    def labels(self, nodes: int) -> float:
        """Pages that come or go a second, on prefill and decode nodes: each that is new drives one out."""
        return self.requests(nodes) * 4 * self.prompt * (1 - self.hit) / PAGE


LONG = Traffic("long", 12_035, 343, 0.3)  # the means of Mooncake's trace
CHAT = Traffic("chat", 1_155, 211, 0.1)  # and of Azure's of conversations, 2023


@dataclass(frozen=True, slots=True)
class Budget:
    """Shares of a core. Each router has ``beats``, ``pages`` and ``sums`` whatever it is asked; ``tokens``
    and ``requests`` are all routers' together."""

    beats: float
    pages: float
    sums: float
    tokens: float
    requests: float

    @property
    def fixed(self) -> float:
        return self.beats + self.pages + self.sums

    @property
    def routers(self) -> int | None:
        """None: no number of them is enough."""
        left = FULL - self.fixed
        return None if left <= 0 else math.ceil((self.tokens + self.requests) / left)


def budget(costs: Costs, traffic: Traffic, coarser: int = 1) -> Budget:
    """``coarser``: if only each so-many-th page were told."""
    nodes = costs.nodes
    placing = traffic.prompt / TOKENS * costs.hashing + costs.choose
    placing += min(traffic.prompt, 1024 * PAGE) / TOKENS * costs.opened
    return Budget(
        beats=nodes * BEATS * (READ_US + SEND_US) / 1e6,
        pages=traffic.labels(nodes) / coarser * costs.label / 1e6,
        sums=20 * (costs.sums + costs.sweep + costs.canary) / 1e6,
        tokens=nodes * traffic.node_tokens * TOKEN_US / 1e6,
        requests=traffic.requests(nodes) * (REQUEST_US + placing) / 1e6,
    )
