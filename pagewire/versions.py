"""Which versions of pagewire understand each other: those of one major whose minors are neighbours at most.

Knows version strings such as ``0.1.0+1a2b3c4d`` (behind the "+": a fingerprint of all messages) and numbers
made of them; knows no message. What the rule asks of messages is in ``pagewire.schema``.
"""

from __future__ import annotations

import re

__version__ = "0.1.0"

_MAJOR_MINOR = re.compile(r"(\d{1,6})\.(\d{1,3})(?:[.+]|$)")
_MINORS = 1000  # a major has fewer, so that levels of two majors are never neighbours


def level_of(version: str) -> int | None:
    """One number for major and minor; None if ``version`` is none."""
    found = _MAJOR_MINOR.match(version)
    if found is None or int(found[2]) >= _MINORS - 1:
        return None
    return int(found[1]) * _MINORS + int(found[2])


def release_of(level: int) -> str:
    """Major and minor of a level, as in ``0.1``."""
    return f"{level // _MINORS}.{level % _MINORS}"


def goes_with(theirs: str, ours: str) -> bool:
    """Whether two processes of these versions may work together. Within one minor version the messages must
    be the same too: trees that differ there, but not in their version, are not of one release."""
    if theirs == ours:
        return True
    level, our_level = level_of(theirs), level_of(ours)
    if level is None or our_level is None or abs(level - our_level) > 1:
        return False
    prints = {version.partition("+")[2] for version in (theirs, ours)} - {""}
    return level != our_level or len(prints) < 2


def _own_level() -> int:
    level = level_of(__version__)
    assert level is not None
    return level


LEVEL = _own_level()  # what our messages say of themselves
