"""For parsers of output: text cut anywhere, and what they gave, joined."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import strategies as st

from pagewire.text.output.pieces import Arguments, Call, Content, Parser, Piece, Reasoning


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one kind as one."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if type(piece) is type(last) and not isinstance(piece, Call):
            assert isinstance(last, Content | Reasoning | Arguments)
            assert isinstance(piece, Content | Reasoning | Arguments)
            found[-1] = type(last)(last.text + piece.text)
        else:
            found.append(piece)
    return found


def parse(parser: Parser, *texts: str) -> list[Piece]:
    return joined([piece for text in texts for piece in parser.push(text)] + parser.finish())


def cut(text: str, places: Iterable[int]) -> list[str]:
    at = [0, *sorted({place for place in places if place < len(text)}), len(text)]
    return [text[low:high] for low, high in pairwise(at)]


def texts(*words: str) -> st.SearchStrategy[str]:
    """Texts made of ``words``, parts of them, and a little noise."""
    parts = sorted({word[low:high] for word in words for low in (0, 1) for high in (-1, len(word))})
    parts += [" ", "\n", "x", '"', "{", "}", *words * 3]
    return st.lists(st.sampled_from(parts), max_size=14).map("".join)


places = st.lists(st.integers(1, 120), max_size=40)
