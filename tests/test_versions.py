from __future__ import annotations

import pytest

from pagewire.mailbox import SPEAKS
from pagewire.versions import LEVEL, goes_with, level_of, release_of


@pytest.mark.parametrize(
    ("theirs", "ours", "fits"),
    [
        ("0.1.0", "0.1.7", True),
        ("0.1.0+aa", "0.1.7+aa", True),
        ("0.1.0+aa", "0.1.0+bb", False),  # a tree with other messages that calls itself the same
        ("0.1.0", "0.1.0+bb", True),
        ("0.2.0+aa", "0.1.0+bb", True),
        ("0.3.0+aa", "0.1.0+aa", False),
        ("1.1.0+aa", "0.1.0+aa", False),
        ("1.0.0", "0.999.0", False),
        ("0.10", "0.9", True),
        ("x", "0.1.0", False),
        ("", "0.1.0", False),
        ("0.1", "0.1.0", True),
        ("9" * 99 + ".1.0", "0.1.0", False),
    ],
)
def test_neighbours_go_together_either_way(theirs: str, ours: str, fits: bool) -> None:
    assert goes_with(theirs, ours) == goes_with(ours, theirs) == fits


def test_a_level_is_major_and_minor() -> None:
    assert level_of(SPEAKS) == LEVEL
    assert SPEAKS.startswith(f"{release_of(LEVEL)}.")
    assert [level_of(version) for version in ("0.4.2", "2.11.0+x", "2.11", "2")] == [4, 2011, 2011, None]
