"""Every rule of both tables changed in every small way, one at a time: how many of these the search notices.

A rule is ignored, or leads to another state, or loses one of its actions. COUNT actions are left alone: the
model does not count. So are the targets of rules for what is unknown: the shells keep nothing of it. Rules
that no legal world ever uses cannot be told apart and are left out.

Most mutants are found within a few thousand states of a small world, so all worlds are searched that far
before any is searched to its end; a world that never comes to the rule is not searched at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from handoff_model.bugs import changed
from handoff_model.search import TooLarge, search
from handoff_model.sides import Config, Tables
from handoff_model.world import World

from kv_transfer.protocol import Event, Rule, SenderState

# Small worlds that together use each misfortune; the cheap ones first.
WORLDS: Sequence[Config] = (
    Config(name="plain", parts=1),
    Config(name="unfit", parts=1, unfit=True),
    Config(name="retracts, prefix hits, unfit", haves=(0, 1), retracts=True, unfit=True),
    Config(name="damage, dead sender", parts=1, damage=True, sender_may_die=True),
    Config(name="forgets", parts=1, forgets=True),
    Config(name="two lives", parts=1, receiver_lives=2),
)
NEAR, ALL = 2_000, 2_000_000  # states
Key = tuple[Any, Event]
Watch = Callable[[Sequence["Mutant"]], Iterable["Mutant"]]  # a progress bar, say


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
    states: int = 0
    survivors: list[str] = field(default_factory=list)


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


class Hunt:
    """Which rules each world comes to, and the search for one mutant through these worlds."""

    def __init__(self, worlds: Sequence[Config] = WORLDS) -> None:
        self._uses = [(config, *_fired(config)) for config in worlds]
        self.used: set[Key] = set().union(*(used for _, used, _ in self._uses))
        self.states = 0

    def survives(self, mutant: Mutant) -> bool:
        """True if no search notices."""
        key = (mutant.state, mutant.event)
        worlds = [config for config, _, asked in self._uses if key in asked]
        for most in (NEAR, ALL):
            wide = []
            for config in worlds:
                try:
                    result = search(World(config, mutant.tables()), most=most)
                except TooLarge as error:
                    wide.append(config)
                    self.states += error.states
                    continue
                self.states += result.states
                if result.wrong:
                    return False
            worlds = wide
        assert not worlds, f"{mutant} makes more than {ALL} states"
        return True


def _fired(config: Config) -> tuple[set[Key], set[Key]]:
    """The rules that happen in a world, and those that are asked about besides."""
    world, asked = World(config), World(config)
    assert not search(world, liveness=False).wrong
    assert not search(asked).wrong
    return world.sender.fired | world.receiver.fired, asked.sender.fired | asked.receiver.fired


def tally(
    hunt: Hunt, only: set[Key] | None = None, part: tuple[int, int] = (1, 1), watch: Watch = iter
) -> Tally:
    """Try all mutants of the rules that are used, or of ``only``; of these, part k of n."""
    result, todo = Tally(), []
    for table in (Tables().sender, Tables().receiver):
        for state, row in table.items():
            result.rules += len(row)
            for event, rule in row.items():
                if (state, event) in hunt.used:
                    result.used += 1
                    todo += mutants(state, event, rule) if only is None or (state, event) in only else []
    k, n = part
    for mutant in watch(todo[k - 1 :: n]):
        result.mutants += 1
        if hunt.survives(mutant):
            result.survivors.append(str(mutant))
    result.states = hunt.states
    return result
