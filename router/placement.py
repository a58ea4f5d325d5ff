"""Which prefill node reads a prompt, and which decode node writes the answer.

Pure functions over what is known of the nodes, of the ways between them, and what this router has sent them.
Knows no message and no clock. Here it is decided who comes into question; among those that do,
``router.strategies`` choose, and ``router.cost`` says whether the decode node had better read by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from pagewire.mailbox import Peer
from pagewire.messages import DECODE, PREFILL
from pagewire.rates import READING
from router.cost import Costs, Prompt
from router.distances import Way
from router.fleet import Fleet, Node
from router.ledger import Ledger
from router.reach import Reach
from router.standing import Standing, by_standing, drawn, promising, standing, together
from router.standing import Tried as Tried
from router.strategies import STRATEGIES, Couple, Scene, Strategy, by_cost, by_load, clearly_cheaper


class Query(NamedTuple):
    """What is to be placed. ``reserve`` is how many tokens it may hold at its end. ``alone``: a decode node
    may read the prompt itself, where there is no prefill node that has not been tried. ``cached``: what nodes
    hold of it need not be computed."""

    tokens: Sequence[int]
    reserve: int
    cache_salt: str = ""
    alone: bool = False
    request: str = ""
    cached: bool = True


class Why(NamedTuple):
    """``reason`` is "prefix" where the reader holds a beginning of the prompt, "alone" where the decode node
    reads, else what the strategy goes by. Of ``tokens``, ``cached`` are believed to be held by the reader."""

    reason: str = ""
    cached: int = 0
    tokens: int = 0
    ttft_ms: float = 0.0  # predicted

    def __str__(self) -> str:
        return f"{self.reason}:{self.cached}/{self.tokens}" if self.cached else self.reason


class Pair(NamedTuple):
    """The chosen nodes, perhaps the same one; ``address`` is where the handoff reaches the decode node."""

    prefill: Peer
    decode: Peer
    address: str
    why: Why = Why()

    def without_prefill(self) -> Pair:
        return self._replace(prefill=self.decode, why=Why("alone", tokens=self.why.tokens))


@dataclass(frozen=True, slots=True)
class Rules:
    """How the operator wants it. ``placement`` names a strategy; ``disaggregate`` says whether prompts go
    through prefill nodes, "auto": unless it is predicted to be cheaper without."""

    placement: str = "prefix"
    disaggregate: str = "auto"


class View(NamedTuple):
    """A snapshot. ``held``: leading tokens of the prompt that each node has in its prefix cache, whoever has
    most first. ``ways``: what handoffs take by distance."""

    now: float
    fleet: Fleet
    ledger: Ledger
    reach: Reach
    held: Mapping[Peer, int] = {}
    ways: Mapping[int, Way] = {}


class _Case(NamedTuple):
    """What there is to choose among for one prompt."""

    view: View
    scene: Scene
    tried: Tried
    decodes: list[Node]
    prefills: list[Node]


def choose(view: View, query: Query, tried: Tried, rules: Rules) -> Pair | None:
    """The best pair now, or None; in a large fleet, of the nodes that are drawn. Nodes in ``tried``, and
    silent ones, only where there are no others; a pair that is cut, to ``tried`` or to ``reach``, only where
    all are.

    The decode node alone stands in for both as a last resort, since whoever decodes there has to wait
    meanwhile: where ``query`` allows it, or where every pair is cut and one of them surely. Before that is
    known, the pair whose failure is the longest ago is asked once more. And it does so where ``rules`` say,
    or where that is predicted to be cheaper and nothing has gone wrong.
    """
    seed = f"{query.request}/{len(tried)}"
    decodes, prefills = (drawn(view.fleet, role, view.held, seed) for role in (DECODE, PREFILL))
    colocated = query.alone or view.fleet.colocated or rules.disaggregate == "never"
    if not decodes or not (prefills or colocated):
        return None
    prompt = Prompt(len(query.tokens), query.reserve, view.held)
    costs = Costs.of(view.now, view.ledger, (*prefills, *decodes), view.ways)
    scene = Scene(costs, prompt, query.request)
    case = _Case(view, scene, tried, decodes, prefills)
    return _pair(scene, rules, _chosen(case, query, rules))


def _chosen(case: _Case, query: Query, rules: Rules) -> Couple:
    strategy = STRATEGIES[rules.placement]
    if not case.prefills or rules.disaggregate == "never":
        return _alone(case, strategy)
    if clear := _clear(case):
        best = strategy(case.scene, clear)
        if query.alone and best.prefill.peer in case.tried:
            return _alone(case, strategy)
        if rules.disaggregate == "auto" and not case.tried:
            return _cheaper_alone(case, best) or best
        return best
    if query.alone or any(case.view.reach.sure(couple.link) for couple in _couples(case)):
        return _alone(case, strategy)
    return _longest_ago(case)


def _alone(case: _Case, strategy: Strategy) -> Couple:
    best = min(standing(node, case.tried) for node in case.decodes)
    couples = [Couple(node, node) for node in case.decodes if standing(node, case.tried) == best]
    return strategy(case.scene, couples)


def _cheaper_alone(case: _Case, best: Couple) -> Couple | None:
    """The decode node that had better read the prompt itself, if the price of reading is known."""
    if best.decode.suspect or READING[1] not in best.prefill.measured:
        return None
    decodes = promising(case.scene, case.tried, case.decodes)
    alone = by_cost(case.scene, [Couple(node, node) for node in decodes if not node.suspect])
    return alone if clearly_cheaper(case.scene, alone, best) else None


def _pair(scene: Scene, rules: Rules, couple: Couple) -> Pair:
    prompt, reader = scene.prompt, couple.prefill
    cached = prompt.tokens - prompt.new(reader)
    if couple.alone:
        reason = "alone"
    elif rules.placement == "prefix":
        reason = "prefix" if cached else "load"
    else:
        reason = rules.placement
    why = Why(reason, cached, prompt.tokens, scene.costs.ttft_ms(prompt, *couple))
    return Pair(*couple.link, couple.decode.hello.address, why)


def _couples(case: _Case) -> Iterator[Couple]:
    return (Couple(prefill, decode) for decode, prefill in product(case.decodes, case.prefills))


def _clear(case: _Case) -> list[Couple]:
    """The pairs of the best standing that has any that are not cut, of all nodes if need be."""
    readers = promising(case.scene, case.tried, case.prefills)
    few = promising(case.scene, case.tried, case.decodes, readers), readers
    for decodes, prefills in (few, (case.decodes, case.prefills)):
        for by, to in by_standing(case.tried, decodes, prefills):
            couples = [Couple(prefill, decode) for decode, prefill in product(to, by)]
            if clear := [couple for couple in couples if not _cut(case, couple)]:
                return clear
    return []


def _cut(case: _Case, couple: Couple) -> bool:
    tried, reach = case.tried, case.view.reach
    return couple.link in tried or reach.avoids(case.view.now, couple.link)


def _longest_ago(case: _Case) -> Couple:
    """Of pairs that are all cut, that whose failure is the longest ago."""

    def order(couple: Couple) -> tuple[bool, float, Standing, Standing, Standing]:
        to, by = standing(couple.decode, case.tried), standing(couple.prefill, case.tried)
        failed_at = case.view.reach.failed_at(couple.link)
        return couple.link in case.tried, failed_at, together(to, by), to, by

    first = min(order(couple) for couple in _couples(case))
    return by_load(case.scene, [couple for couple in _couples(case) if order(couple) == first])
