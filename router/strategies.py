"""Three ways to choose among pairs of nodes of equal standing: in turn, by load, by predicted cost.

Pure functions of one signature, over a snapshot. Know what nodes report, what they hold of the prompt and
what this router has sent them; know nothing of nodes that failed or are cut off, which
``router.placement`` has left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from pagewire.mailbox import Peer
from pagewire.topology import shared
from router.cost import Costs, Prompt
from router.fleet import Node

BAND = 0.05  # costs that differ by less are equal: a prediction is no better
BAND_MS = 2.0


class Couple(NamedTuple):
    """Who reads, perhaps the decode node itself, and who writes."""

    prefill: Node
    decode: Node

    @property
    def link(self) -> tuple[Peer, Peer]:
        return self.prefill.peer, self.decode.peer

    @property
    def alone(self) -> bool:
        return self.prefill is self.decode

    @property
    def nearness(self) -> int:
        """The higher, the nearer; 0 where that is not known, or nothing is handed over."""
        return 0 if self.alone else shared(self.prefill.place, self.decode.place) or 0

    @property
    def names(self) -> tuple[str, str]:
        return self.decode.hello.node, self.prefill.hello.node


class Scene(NamedTuple):
    """One prompt and the fleet at one moment. ``request`` is drawn with where chance has to decide."""

    costs: Costs
    prompt: Prompt
    request: str


Strategy = Callable[[Scene, Sequence[Couple]], Couple]


def in_turn(scene: Scene, couples: Sequence[Couple]) -> Couple:
    """Each pair after the other."""
    ordered = sorted(couples, key=lambda couple: couple.names)
    return ordered[scene.costs.ledger.placed % len(ordered)]


def by_load(scene: Scene, couples: Sequence[Couple]) -> Couple:
    """The decode node with most room, and the prefill node with the fewest tokens to read."""

    def load(couple: Couple) -> tuple[int, str, int, str]:
        to, by = couple.decode, couple.prefill
        queued = max(by.load.queued_tokens, scene.costs.ledger.prefilling[by.peer])
        return (-scene.costs.free_tokens(to), to.hello.node, queued, by.hello.node)

    return min(couples, key=load)


def by_cost(scene: Scene, couples: Sequence[Couple]) -> Couple:
    """The lowest predicted cost. Of those that are as good, the nearest; of these, the better of two that are
    drawn: then routers that know the same do not all send to the same node (Mitzenmacher's power of two
    choices)."""
    prices = _prices(scene, couples)
    limit = _about(min(prices))
    equal = [(price, couple) for price, couple in zip(prices, couples, strict=True) if price <= limit]
    nearest = max(couple.nearness for _, couple in equal)
    near = [each for each in equal if each[1].nearness == nearest]
    drawn = sorted(near, key=lambda each: _draw(scene.request, each[1]))[:2]
    return min(drawn, key=lambda each: each[0])[1]


def _prices(scene: Scene, couples: Sequence[Couple]) -> list[float]:
    if couples[0].alone:  # then all are
        return [cost_of(scene, couple) for couple in couples]
    prefills = {id(couple.prefill): couple.prefill for couple in couples}
    decodes = {id(couple.decode): couple.decode for couple in couples}
    table = scene.costs.table(scene.prompt, prefills.values(), list(decodes.values()))
    columns = {name: column for column, name in enumerate(decodes)}
    rows = dict(zip(prefills, table, strict=True))
    return [rows[id(couple.prefill)][columns[id(couple.decode)]] for couple in couples]


def cost_of(scene: Scene, couple: Couple) -> float:
    if couple.alone:
        return scene.costs.alone(scene.prompt, couple.decode)
    return scene.costs.through(scene.prompt, *couple)


def clearly_cheaper(scene: Scene, couple: Couple, than: Couple) -> bool:
    """By so much that it will still be cheaper when the next prompt of this kind is placed."""
    return _about(cost_of(scene, couple) * (1 + BAND)) < cost_of(scene, than)


def _about(cost: float) -> float:
    return cost * (1 + BAND) + BAND_MS


def _draw(request: str, couple: Couple) -> bytes:
    return blake2b("/".join((request, *couple.names)).encode(), digest_size=8).digest()


STRATEGIES: dict[str, Strategy] = {"round-robin": in_turn, "load": by_load, "prefix": by_cost}
