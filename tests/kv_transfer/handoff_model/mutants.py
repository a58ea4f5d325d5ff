"""Every rule of both tables changed in every small way, one at a time: how many of these the search notices.

A rule is ignored, or leads to another state, or loses one of its actions. COUNT actions are left alone: the
model does not count. So are the targets of rules for what is unknown: the shells keep nothing of it. Rules
that no legal world ever uses cannot be told apart and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from handoff_model.bugs import changed
from handoff_model.search import search
from handoff_model.sides import Config, Tables
from handoff_model.world import World

from kv_transfer.protocol import Event, Rule, SenderState

# Small worlds that together use each misfortune; the cheap ones first.
WORLDS: Sequence[Config] = (
    Config(name="retracts, prefix hits, unfit", haves=(0, 1), retracts=True, unfit=True),
    Config(name="damage, dead sender", parts=1, damage=True, sender_may_die=True),
    Config(name="two lives", parts=1, receiver_lives=2),
    Config(name="forgets", parts=1, forgets=True),
)


class Mutant(NamedTuple):
    state: Any
    event: Event
    rule: Rule[Any]
    what: str

    def __str__(self) -> str:
        side = "sender" if isinstance(self.state, SenderState) else "receiver"
        return f"{side} {self.state.name} on {self.event.name}: {self.what}"

    def tables(self) -> Tables:
        tables = Tables()
        side = "sender" if isinstance(self.state, SenderState) else "receiver"
        return replace(tables, **{side: changed(getattr(tables, side), self.state, self.event, self.rule)})


@dataclass(slots=True)
class Tally:
    rules: int = 0
    used: int = 0
    mutants: int = 0
    survivors: list[Mutant] = field(default_factory=list)


def used_rules() -> set[tuple[Any, Event]]:
    used: set[tuple[Any, Event]] = set()
    for config in WORLDS:
        world = World(config)
        assert not search(world, liveness=False).wrong
        used |= world.sender.fired | world.receiver.fired
    return used


def mutants(state: Any, event: Event, rule: Rule[Any]) -> Iterator[Mutant]:
    """All small changes of one rule that the model can see."""
    does = [a for a in rule.actions if not a.name.startswith("COUNT_")]
    if does or rule.next is not state:
        yield Mutant(state, event, Rule(state, ()), "ignored")
    for other in type(state) if state.name != "NONE" or event in (Event.RESERVE, Event.UNFIT) else []:
        if other is not rule.next:
            yield Mutant(state, event, Rule(other, rule.actions), f"leads to {other.name}")
    for action in does if len(does) > 1 or rule.next is not state else []:
        rest = tuple(a for a in rule.actions if a is not action)
        yield Mutant(state, event, Rule(rule.next, rest), f"without {action.name}")


def survives(mutant: Mutant) -> bool:
    return not any(search(World(config, mutant.tables())).wrong for config in WORLDS)


def tally(only: set[tuple[Any, Event]] | None = None) -> Tally:
    """Try all mutants of the rules that are used, or of ``only``, which are."""
    result = Tally()
    used = used_rules() if only is None else only
    for table in (Tables().sender, Tables().receiver):
        for state, row in table.items():
            for event, rule in row.items():
                result.rules += 1
                if (state, event) in used:
                    result.used += 1
                    for mutant in mutants(state, event, rule):
                        result.mutants += 1
                        if survives(mutant):
                            result.survivors.append(mutant)
    return result
