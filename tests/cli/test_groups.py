from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

from pagewire.cli.groups import grouped


@dataclass(frozen=True)
class Size:
    width: Annotated[int, "w"]
    height: Annotated[int, "h"] = 2


called: list[tuple[str, Size]] = []


@grouped
def draw(size: Size, name: Annotated[str, "n"] = "x") -> None:
    """Draw it."""
    called.append((name, size))


def test_a_group_becomes_a_parameter_for_each_field() -> None:
    parameters = inspect.signature(draw).parameters
    assert list(parameters) == ["name", "width", "height"]
    assert (parameters["width"].default, parameters["height"].default) == (inspect.Parameter.empty, 2)
    assert parameters["height"].annotation == Annotated[int, "h"]


def test_the_command_gets_the_group_whole() -> None:
    draw(width=3, name="y")  # type: ignore[call-arg]
    assert called.pop() == ("y", Size(3))


def test_what_it_says_of_itself_stays() -> None:
    assert (draw.__name__, draw.__doc__) == ("draw", "Draw it.")
