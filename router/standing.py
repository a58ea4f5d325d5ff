"""Which nodes come before others whatever they cost: those that have not failed the request, and that speak.

Pure. Knows nodes, what failed a request, and prices only to leave nodes of a large fleet out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product, takewhile

from pagewire.mailbox import Peer
from router.fleet import Fleet, Node
from router.reach import Link
from router.strategies import Scene

MANY = 8  # nodes of a role: of more, only the most promising are looked at
DRAWN = 16  # nodes of a role: of more, so many are drawn, and only these come into question
_HOLDERS = 64  # of the nodes that hold most of a prompt, how many are gone through

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


def drawn(fleet: Fleet, role: str, held: Mapping[Peer, int], request: str) -> list[Node]:
    """Those who offer ``role``: all, or of more than ``DRAWN`` so many that ``request`` draws, beside those
    that hold more of the prompt. ``held`` begins with whoever holds most.

    So a placement costs the same in any fleet, and many routers that know the same do not all see the same
    few idle nodes.
    """
    nodes = fleet.of(role)
    if len(nodes) <= DRAWN:
        return list(nodes)
    dice = random.Random(request)
    found = {node.peer: node for node in dice.sample(nodes, DRAWN)}
    return list((found | _holders(fleet, role, held, found.values(), dice)).values())


def _holders(
    fleet: Fleet, role: str, held: Mapping[Peer, int], beside: Iterable[Node], dice: random.Random
) -> dict[Peer, Node]:
    """Of those that hold more than somebody of ``beside``, the ones that hold most."""
    least = min(held.get(node.peer, 0) for node in beside)
    more = takewhile(lambda peer: held[peer] > least, islice(held, _HOLDERS))
    nodes = map(fleet.get, more)
    fit = [node for node in nodes if node is not None and node.role == role and not node.draining]
    fit.sort(key=lambda node: (-held[node.peer], dice.random()))
    return {node.peer: node for node in fit[: MANY // 2]}


def promising(scene: Scene, tried: Tried, nodes: list[Node], beside: Iterable[Node] = ()) -> list[Node]:
    """All, or in a large fleet those that hold most of the prompt, are near one of ``beside``, or have least
    to do."""
    if len(nodes) <= MANY:
        return nodes
    held, costs = scene.prompt.held, scene.costs

    def busy(node: Node) -> tuple[Standing, float, int]:
        return standing(node, tried), costs.queue_ms(node), -costs.free_tokens(node)

    by_busy = sorted(nodes, key=busy)
    by_held = sorted(by_busy, key=lambda node: -held.get(node.peer, 0))
    by_near = _by_nearness(by_busy, beside)
    found = {n.peer: n for n in (*by_held[: MANY // 2], *by_near[: MANY // 4], *by_busy[:MANY])}
    return list(found.values())[:MANY]


def _by_nearness(nodes: list[Node], beside: Iterable[Node]) -> list[Node]:
    """The nearest to any of ``beside`` first, else as they stand."""
    ways = {other.place[:depth] for other in beside for depth in range(1, len(other.place) + 1)}

    def nearness(node: Node) -> int:
        depths = range(len(node.place), 0, -1)
        return next((depth for depth in depths if node.place[:depth] in ways), 0)

    return sorted(nodes, key=nearness, reverse=True) if ways else nodes
