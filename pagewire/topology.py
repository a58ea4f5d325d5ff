"""Where a node is: a path such as ``zone/rack/host``, from the widest to the nearest.

Knows paths; knows no node and no cost. What the parts mean is the operator's affair: two nodes are the
nearer, the more leading parts they share.
"""

from __future__ import annotations

import re

from pagewire.audit import clean
from pagewire.errors import ConfigError

MAX_PARTS = 8
_PATH = re.compile(rf"[A-Za-z0-9._-]{{1,63}}(?:/[A-Za-z0-9._-]{{1,63}}){{0,{MAX_PARTS - 1}}}")

Place = tuple[str, ...]  # () where it is not known


def place_of(path: str) -> Place:
    """The parts of ``path``; "" is nowhere in particular. Raises ConfigError."""
    if not path:
        return ()
    if not _PATH.fullmatch(path):
        raise ConfigError(
            f"--topology {clean(path, 60)}: write up to {MAX_PARTS} names of letters, digits, dots, dashes "
            "and underscores, parted by slashes, as in zone/rack/host"
        )
    return tuple(path.split("/"))


def shared(one: Place, other: Place) -> int | None:
    """How many leading parts the two have in common; None where one of them is not known."""
    if not one or not other:
        return None
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
