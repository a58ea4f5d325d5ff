"""Thinking first, then calls of tools: one choice's text through both parsers, where a request wants them.

Knows the two parsers' order; knows no format.
"""

from __future__ import annotations

from pagewire.text.output.calls import CallParser
from pagewire.text.output.pieces import Content, Piece
from pagewire.text.output.reasoning import ThinkSplitter


class OutputParser:
    """``thinking`` or ``calls`` None: the text has none of that."""

    __slots__ = ("_calls", "_thinking")

    def __init__(self, thinking: ThinkSplitter | None, calls: CallParser | None) -> None:
        self._thinking = thinking
        self._calls = calls

    @property
    def thought_until(self) -> int | None:
        """How many characters belong to the thinking; None while that is not known."""
        return 0 if self._thinking is None else self._thinking.ended

    def push(self, text: str) -> list[Piece]:
        if self._thinking is not None:
            return self._through(self._thinking.push(text))
        return self._through([Content(text)] if text else [])

    def finish(self) -> list[Piece]:
        pieces = self._through(self._thinking.finish()) if self._thinking else []
        return pieces + self._calls.finish() if self._calls else pieces

    def _through(self, pieces: list[Piece]) -> list[Piece]:
        if self._calls is None:
            return pieces
        found: list[Piece] = []
        for piece in pieces:
            found += self._calls.push(piece.text) if isinstance(piece, Content) else [piece]
        return found
