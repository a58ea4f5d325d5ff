"""Which nodes come before others whatever they cost: those that have not failed the request, and that speak.

Pure. Knows nodes, what failed a request, and prices only to leave nodes of a large fleet out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from pagewire.mailbox import Peer
from router.fleet import Node
from router.reach import Link
from router.strategies import Scene

MANY = 8  # nodes of a role: of more, only the most promising are looked at

Tried = frozenset[Peer | Link]  # what has failed the request: nodes, and pairs that did not reach each other
Standing = tuple[int, int]  # how many were tried, how many are silent: the lower the better


def standing(node: Node, tried: Tried) -> Standing:
    return int(node.peer in tried), int(node.suspect)


def by_standing(
    tried: Tried, decodes: list[Node], prefills: list[Node]
) -> Iterator[tuple[list[Node], list[Node]]]:
    """Prefill and decode nodes of equal standing, the best first: together, then of the decode node."""
    grouped = [_grouped(tried, nodes) for nodes in (decodes, prefills)]
    for to, by in sorted(product(*grouped), key=lambda both: (together(*both), both)):
        yield grouped[1][by], grouped[0][to]


def _grouped(tried: Tried, nodes: list[Node]) -> dict[Standing, list[Node]]:
    found: dict[Standing, list[Node]] = {}
    for node in nodes:
        found.setdefault(standing(node, tried), []).append(node)
    return found


def together(to: Standing, by: Standing) -> Standing:
    return to[0] + by[0], to[1] + by[1]


def promising(scene: Scene, tried: Tried, nodes: list[Node]) -> list[Node]:
    """All, or in a large fleet those that hold most of the prompt or have least to do."""
    if len(nodes) <= MANY:
        return nodes
    held, costs = scene.prompt.held, scene.costs

    def busy(node: Node) -> tuple[Standing, float, int]:
        return standing(node, tried), costs.queue_ms(node), -costs.free_tokens(node)

    by_busy = sorted(nodes, key=busy)
    by_held = sorted(by_busy, key=lambda node: -held.get(node.peer, 0))
    found = {node.peer: node for node in (*by_held[: MANY // 2], *by_busy[:MANY])}
    return list(found.values())[:MANY]
