"""Calls of tools in a model's text, in whichever format it was taught.

Knows how calls are marked and what may stand between them; ``call_reader`` knows a call itself. What looks
like a call and is none is content, as the model wrote it. White space beside a call belongs to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pagewire.text.output.call_reader import CallReader
from pagewire.text.output.marks import begun, gap_start
from pagewire.text.output.pieces import Content, Piece


@dataclass(frozen=True, slots=True)
class Format:
    """``opening`` stands before a call and ``closing`` after it. ``bare``: a call needs no mark at the start
    of the text, or after another call and one of ``between``. ``key`` is what arguments are called.
    """

    name: str
    opening: str
    closing: str = ""
    bare: bool = False
    between: str = ""
    key: str = "arguments"


class CallParser:
    """One choice. No more than ``limit`` calls are given out; what follows the last of them is dropped."""

    __slots__ = ("_after", "_call", "_closing", "_fresh", "_held", "_left", "_marked", "_pieces", "form")

    def __init__(self, form: Format, limit: int | None = None) -> None:
        self.form = form
        self._left = limit
        self._call: CallReader | None = None
        self._marked = ""  # what stood before the call that is being read, to be given back if it is none
        self._held = ""
        self._fresh = True  # no content since the start, or since a call
        self._after = False  # a call is over, and its closing mark, or what stands between calls, may come
        self._closing = False
        self._pieces: list[Piece] = []

    def push(self, text: str) -> list[Piece]:
        while text:
            text = self._words(text) if self._call is None else self._read(self._call, text)
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> list[Piece]:
        if self._call is not None:
            self._call.finish()
            if self._call.raw is not None:
                self._content(self._marked + self._call.raw)
        elif not (self._after and self.form.closing.startswith(self._held)):
            self._content(self._held)
        self._call, self._held = None, ""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _read(self, call: CallReader, text: str) -> str:
        """More of a call. Gives what follows it."""
        self._pieces += call.push(text)
        if call.rest is None:
            return ""
        self._call = None
        if call.raw is not None:
            self._content(self._marked + call.raw)
            self._after = False
            return call.rest
        self._fresh = self._after = True
        self._closing = bool(self.form.closing)
        if self._left is not None:
            self._left -= 1
        return call.rest

    def _words(self, text: str) -> str:
        """Text outside of calls, up to where one begins. Gives what follows that."""
        if self._left == 0:
            return ""
        text, self._held = self._held + text, ""
        if self._after:
            text = self._beside(text)
            if self._held:
                return ""
        if self.form.bare and self._fresh:
            words = text.lstrip()
            if words.startswith("{"):
                return self._begin("" if self._after else text[: len(text) - len(words)], words)
        at = text.find(self.form.opening)
        end = at if at >= 0 else len(text) - begun(text, self.form.opening)
        start = gap_start(text, end)
        if self._fresh and not text[:start].strip():
            start = 0
        self._content(text[:start])
        if at < 0:
            self._held = text[start:]
            return ""
        behind = at + len(self.form.opening)
        return self._begin(text[start:behind], text[behind:])

    def _begin(self, marked: str, rest: str) -> str:
        self._call, self._marked = CallReader(), marked
        return rest

    def _beside(self, text: str) -> str:
        """Pass over what may follow a call: its closing mark, and what stands between calls."""
        text = text.lstrip()
        if self._closing:
            if text.startswith(self.form.closing):
                self._closing = False
                return self._beside(text.removeprefix(self.form.closing))
            if self.form.closing.startswith(text):
                self._held = text
                return ""
        return text.lstrip(self.form.between + " \t\r\n") if self.form.between else text

    def _content(self, text: str) -> None:
        if text:
            self._fresh = self._after = False
            self._pieces.append(Content(text))
