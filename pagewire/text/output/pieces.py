"""What a parser of a model's output gives: pieces, each as soon as it is certain.

Knows the kinds of piece; knows no format and no JSON reply.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Content(NamedTuple):
    """Words for the reader."""

    text: str


class Reasoning(NamedTuple):
    """What the model thought before it answered."""

    text: str


class Call(NamedTuple):
    """A call of a tool begins."""

    name: str


class Arguments(NamedTuple):
    """More of the arguments of the call that began last: the model's own JSON, as it came."""

    text: str


Piece = Content | Reasoning | Call | Arguments


class Parser(Protocol):
    """One choice's text in, pieces out. Text that may still become something else is held back."""

    def push(self, text: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]:
        """What was held back; no more text will come."""
        ...
