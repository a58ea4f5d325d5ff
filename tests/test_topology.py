from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.errors import ConfigError
from pagewire.topology import MAX_PARTS, place_of, shared

PARTS = st.lists(st.sampled_from(["a", "b", "rack-3", "node_1.x"]), max_size=MAX_PARTS).map(tuple)


@given(PARTS)
def test_a_path_is_its_parts(parts: tuple[str, ...]) -> None:
    assert place_of("/".join(parts)) == parts


@given(PARTS, PARTS)
def test_two_places_share_what_leads_to_both(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    count = shared(one, other)
    assert count == shared(other, one)
    if count is None:
        assert not one or not other
        return
    assert one[:count] == other[:count]
    assert one[: count + 1] != other[: count + 1] or count == min(len(one), len(other))


@pytest.mark.parametrize(
    "path", ["a//b", "/a", "a/", "a b", "é", "x" * 64, "/".join("a" * (MAX_PARTS + 1)), "a\n"]
)
def test_anything_else_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="zone/rack/host"):
        place_of(path)
