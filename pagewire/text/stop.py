"""Stop strings in text that arrives in pieces.

Knows characters; knows no token. The text ends where the first stop string is complete; if two are complete
at the same character, the one that began earlier counts. That does not depend on how the text was cut into
pieces.
"""

from __future__ import annotations


class StopMatcher:
    """Holds back the longest end of the text that may still become a stop string, and nothing else.

    ``found`` is the stop string that ended the text, or None. It is cut off unless ``include``.
    """

    __slots__ = ("_firsts", "_held", "_include", "_longest", "_stops", "found")

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        assert all(stops)
        self._stops = stops
        self._include = include
        self._firsts = frozenset(stop[0] for stop in stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str, *, armed: bool = True) -> str:
        """The text that is now certain not to be cut. Not ``armed``: a stop string that ``text`` completes
        does not count, though its beginning may belong to one that is completed later.
        """
        assert self.found is None, "the text has ended"
        if not self._stops or not text:
            return text
        seen, text = len(self._held), self._held + text
        match = self._first(text, seen) if armed else None
        if match is not None:
            end, start, self.found = match
            self._held = ""
            return text[: end if self._include else start]
        keep = self._beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back; no more text will come."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str, seen: int) -> tuple[int, int, str] | None:
        """(end, start, stop) of the first stop string that ends after ``seen`` characters."""
        matches = []
        for stop in self._stops:
            start = text.find(stop, max(0, seen - len(stop) + 1))
            if start >= 0:
                matches.append((start + len(stop), start, stop))
        return min(matches, default=None)

    def _beginning(self, text: str) -> int:
        """Length of the longest end of ``text`` with which a stop string begins, without being complete."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] not in self._firsts:
                continue
            tail = text[at:]
            if any(len(stop) > len(tail) and stop.startswith(tail) for stop in self._stops):
                return len(tail)
        return 0
