"""Breadth-first search through all states of a world; the first broken promise comes with a shortest trace.

Knows worlds and promises; knows no rule of the protocol.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise

from handoff_model.promises import Promises
from handoff_model.world import Move, World


class TooLarge(Exception):
    """The world has more states than were to be searched; nothing was wrong with those that were."""

    def __init__(self, states: int) -> None:
        super().__init__(f"more than {states} states")
        self.states = states


@dataclass(slots=True)
class Result:
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    wrong: str = ""
    trace: list[str] = field(default_factory=list)

    def story(self) -> str:
        return "\n".join([*self.trace, f"  => {self.wrong}"])


def search(
    world: World, *, liveness: bool = True, promises: type[Promises] = Promises, most: int = 20_000_000
) -> Result:
    """Visit every state once, nearest first, until something is wrong or all are seen.

    Raises TooLarge if more than ``most`` states come up.
    """
    began = time.monotonic()
    result = Result()
    asked = promises(world)
    came: dict[int, int] = {world.start: -1}
    level, todo = [world.start], []
    while level and not result.wrong:
        for state in level:
            if wrong := world.between(state) or (asked.broken(state) if liveness else ""):
                result.wrong, result.trace = wrong, _trace(world, came, state, None)
                if asked.stuck:
                    result.trace.append("    from here on, all do their best:")
                    result.trace += [f"  + {_line(world, *step)}" for step in asked.stuck]
                break
            for move, after in world.moves(state):
                result.transitions += 1
                if move.step.wrong:
                    result.wrong, result.trace = move.step.wrong, _trace(world, came, state, move)
                    break
                if after not in came:
                    came[after] = state
                    todo.append(after)
            if result.wrong:
                break
        if len(came) > most and not result.wrong:
            raise TooLarge(len(came))
        level, todo = todo, []
        result.depth += bool(level)
    result.states = len(came)
    result.seconds = time.monotonic() - began
    return result


def _trace(world: World, came: dict[int, int], state: int, last: Move | None) -> list[str]:
    path = [state]
    while (state := came[path[-1]]) >= 0:
        path.append(state)
    path.reverse()
    lines = []
    for before, after in pairwise(path):
        move = next(m for m, there in world.moves(before) if there == after)
        lines.append(_line(world, before, move))
    if last is not None:
        lines.append(_line(world, path[-1], last))
    return [f"{n:3} {line}" for n, line in enumerate(lines, 1)]


def _line(world: World, before: int, move: Move) -> str:
    if move.step.next is None:
        return f"network  {move.step.label}"
    which = 0 if move.by_sender else 1
    who = ("sender  ", "receiver")[which]
    came_in = "<- " * (move.frame != 0 or " of a stranger" in move.step.label)
    old, new = world.sides(before)[which].state.name, move.step.next.state.name
    states = old if old == new else f"{old} -> {new}"
    sent = "".join(f"; sends {frame}" for frame in move.step.sent)
    return f"{who} {came_in}{move.step.label}: {states}{sent}"
