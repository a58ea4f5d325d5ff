"""Thinking apart from the answer: ``<think>...</think>`` in text that arrives in pieces.

Knows the two marks; knows no model, no tool and no token. White space at the edges of the thinking, and
between it and the answer, belongs to the marks and is not shown.
"""

from __future__ import annotations

from enum import Enum, auto

from pagewire.text.output.marks import begun, gap_start
from pagewire.text.output.pieces import Content, Piece, Reasoning

OPEN, CLOSE = "<think>", "</think>"


class _At(Enum):
    START = auto()  # nothing but white space so far
    THINKING = auto()
    ANSWER = auto()


class ThinkSplitter:
    """One choice. ``thinking``: the prompt has opened the mark, or the model begins to think without one.

    ``ended`` is how many characters had come when the thinking was over: 0 where there was none, None while
    that is not known.
    """

    __slots__ = ("_at", "_bare", "_held", "_repeats", "_seen", "ended")

    def __init__(self, *, thinking: bool) -> None:
        self._at = _At.THINKING if thinking else _At.START
        self._bare = True  # nothing of the thinking, or of the answer after it, was shown yet
        self._repeats = thinking
        self._held = ""
        self._seen = 0
        self.ended: int | None = None

    def push(self, text: str) -> list[Piece]:
        self._seen += len(text)
        text, self._held = self._held + text, ""
        pieces: list[Piece] = []
        if self._at is _At.START:
            text = self._start(text)
        if self._at is _At.THINKING:
            text = self._think(text, pieces)
        if self._at is _At.ANSWER:
            text = text.lstrip() if self._bare else text
            if text:
                self._bare = False
                pieces.append(Content(text))
        return pieces

    def finish(self) -> list[Piece]:
        held, self._held = self._held, ""
        if self._at is _At.THINKING:
            self.ended = self._seen
            return [Reasoning(held)] if held.strip() else []
        if self.ended is None:
            self.ended = 0
        return [Content(held)] if held else []

    def _start(self, text: str) -> str:
        """Is there an opening mark? Gives the text behind it, or all of it if there is none."""
        words = text.lstrip()
        if words.startswith(OPEN):
            self._at = _At.THINKING
            return words.removeprefix(OPEN)
        if OPEN.startswith(words):  # "" too
            self._held = text
            return ""
        self._at, self._bare, self.ended = _At.ANSWER, False, 0
        return text

    def _think(self, text: str, pieces: list[Piece]) -> str:
        """Show what is certain to be thinking. Gives the text behind the closing mark."""
        text = text.lstrip() if self._bare else text
        if self._repeats:  # does the model open again what the prompt has opened?
            if not text.startswith(OPEN) and OPEN.startswith(text):
                self._held = text
                return ""
            self._repeats = False
            text = text.removeprefix(OPEN).lstrip()
        end = text.find(CLOSE)
        at = end if end >= 0 else len(text) - begun(text, CLOSE)
        shown = text[: gap_start(text, at)]
        if shown:
            self._bare = False
            pieces.append(Reasoning(shown))
        if end < 0:
            self._held = text[len(shown) :]
            return ""
        rest = text[end + len(CLOSE) :]
        self.ended = self._seen - len(rest)
        self._at, self._bare = _At.ANSWER, True
        return rest
