"""One call of a tool as models write it, ``{"name": "f", "arguments": {...}}``, in text that comes in pieces.

Knows that object; knows no mark around it. With the keys in that order arguments are given out as they come;
otherwise they wait until the object is complete.
"""

from __future__ import annotations

import json
import re

from pagewire.text.output.pieces import Arguments, Call, Piece

MAX_HELD = 64 << 10  # characters of an object that has to be seen whole
MAX_NAME = 256

_HEAD = re.compile(
    r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_MAX_HEAD = 1024


class Nesting:
    """How deep in brackets the JSON text read so far is."""

    __slots__ = ("_escaped", "_quoted", "depth")

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self._quoted = self._escaped = False

    def read(self, text: str, start: int, floor: int) -> tuple[int, bool]:
        """Read from ``start`` until the depth falls to ``floor``. Gives where the reading stopped and
        whether it is over: behind that bracket, or before a ``<`` outside of strings, which no JSON has.
        """
        for at in range(start, len(text)):
            char = text[at]
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._quoted, self._escaped = char != '"', char == "\\"
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self.depth += 1
            elif char in "}]":
                self.depth -= 1
                if self.depth <= floor:
                    return at + 1, True
            elif char == "<":
                return at, True
        return len(text), False


class CallReader:
    """Reads one call. ``rest`` is the text behind it, once it is over; ``raw`` is all of it if it was no
    call, and nothing of it was given out.
    """

    __slots__ = ("_held", "_in_arguments", "_nesting", "_read", "_streaming", "raw", "rest")

    def __init__(self) -> None:
        self._held = ""
        self._read = 0  # characters of what is held that the nesting has seen
        self._nesting = Nesting()
        self._streaming = False
        self._in_arguments = False
        self.rest: str | None = None
        self.raw: str | None = None

    def push(self, text: str) -> list[Piece]:
        return self._stream(text) if self._streaming else self._head(text)

    def finish(self) -> None:
        """No more will come: what was held back was no call."""
        if not self._streaming and self.rest is None:
            self.raw, self.rest = self._held, ""

    def _head(self, text: str) -> list[Piece]:
        self._held += text
        found = _HEAD.match(self._held, 0, _MAX_HEAD) if self._read < _MAX_HEAD else None
        name = _name(found[1]) if found else None
        if found and name:
            self._streaming = self._in_arguments = True
            self._nesting = Nesting(1)
            return [Call(name), *self._stream(self._held[found.end() :])]
        words = self._held.lstrip()
        if words and words[0] != "{":
            return self._refuse(len(self._held) - len(words))
        self._read, over = self._nesting.read(self._held, self._read, 0)
        if self._read > MAX_HELD:
            return self._refuse(MAX_HELD)
        return self._whole() if over else []

    def _whole(self) -> list[Piece]:
        """The object is complete, or broken by what can be no JSON."""
        call = _call(self._held[: self._read])
        if call is None:
            return self._refuse(self._read)
        self.rest = self._held[self._read :]
        return [Call(call[0]), Arguments(call[1])]

    def _refuse(self, end: int) -> list[Piece]:
        self.raw, self.rest = self._held[:end], self._held[end:]
        return []

    def _stream(self, text: str) -> list[Piece]:
        """Give out arguments; then pass over what closes the object."""
        pieces: list[Piece] = []
        at, over = 0, False
        if self._in_arguments:
            at, over = self._nesting.read(text, 0, 1)
            if at:
                pieces.append(Arguments(text[:at]))
            if not over:
                return pieces
            self._in_arguments = False
            if at < len(text) and text[at] == "<":
                self.rest = text[at:]
                return pieces
        at, over = self._nesting.read(text, at, 0)
        if over:
            self.rest = text[at:]
        return pieces


def _name(quoted: str) -> str | None:
    try:
        name = json.loads(quoted)
    except ValueError:
        return None
    return name if isinstance(name, str) and 0 < len(name) <= MAX_NAME else None


def _call(text: str) -> tuple[str, str] | None:
    """Name and arguments of a whole object whose keys stood in another order, or that has no arguments."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        return None
    if arguments is not None and not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments or {}, ensure_ascii=False)
