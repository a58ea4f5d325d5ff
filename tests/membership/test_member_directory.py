from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from members import record

from pagewire.membership.directory import Directory
from pagewire.membership.record import Record


def at(host: int) -> str:
    return f"tcp://10.0.0.{host}:7500"


ROUTERS = st.builds(
    lambda name, host, generation: record(
        name=name, address=at(host), generation=generation, epoch=f"e{generation}"
    ),
    st.sampled_from("abc"),
    st.integers(1, 4),
    st.integers(0, 5),
)
LISTINGS = st.lists(ROUTERS, max_size=6, unique_by=lambda found: found.name)  # a name is a key: one record
UPS = st.sets(st.integers(1, 4).map(at))
TURNS = st.lists(st.tuples(LISTINGS, UPS), min_size=1, max_size=8)


@given(TURNS)
def test_what_holds_at_every_turn(turns: list[tuple[list[Record], set[str]]]) -> None:
    directory, before = Directory(), set[str]()
    for listed, lines in turns:
        up = lines & before  # only what was dialled can be up
        dialled = directory.listed(listed, up)
        newest = max(listed, key=lambda found: found.age, default=None)
        assert len(set(dialled)) == len(dialled)
        assert set(dialled) <= {found.address for found in listed} | up
        if newest is not None and not up:
            assert newest.address in dialled
        if not listed:
            assert set(dialled) == up
        before = set(dialled)


@given(LISTINGS)
def test_listing_the_same_again_changes_nothing(listed: list[Record]) -> None:
    directory = Directory()
    first = directory.listed(listed, ())
    assert set(directory.listed(listed, first)) == set(first)


def test_a_router_that_redis_forgot_is_kept_as_long_as_its_line_is_up() -> None:
    directory = Directory()
    directory.listed([record()], ())
    assert directory.listed([], {at(1)}) == (at(1),)
    assert directory.listed([], {at(1)}) == (at(1),)
    assert directory.listed([], ()) == ()
    assert directory.listed([], {at(1)}) == ()


def test_a_newer_life_elsewhere_ends_the_older_line() -> None:
    directory = Directory()
    directory.listed([record(generation=1)], ())
    assert directory.listed([record(generation=2, address=at(2))], {at(1)}) == (at(2),)


def test_an_older_life_does_not_replace_a_newer_whose_line_is_up() -> None:
    directory, older = Directory(), record(generation=1, address=at(2))
    directory.listed([record(generation=2)], ())
    assert directory.listed([older], {at(1)}) == (at(1),)
    assert directory.listed([older], ()) == (at(2),)


def test_an_address_is_dialled_once_whatever_its_routers_are_called() -> None:
    listed = [record(name="old", generation=1), record(name="new", generation=2)]
    assert Directory().listed(listed, ()) == (at(1),)


def test_nodes_are_nobody_to_dial() -> None:
    assert Directory().listed([record(kind="decode", name="d")], ()) == ()


def test_routers_of_a_version_that_does_not_go_with_ours_are_left_out() -> None:
    directory = Directory(fits=lambda version: version != "9.0.0")
    assert directory.listed([record(version="9.0.0"), record(name="b", address=at(2))], ()) == (at(2),)


def test_there_is_an_upper_limit_and_those_that_are_there_go_first() -> None:
    directory = Directory(most=2)
    listed = [record(name=name, address=at(host)) for host, name in enumerate("abcd", start=1)]
    assert directory.listed(listed[2:], ()) == (at(3), at(4))
    assert set(directory.listed(listed, ())) == {at(3), at(4)}
    assert directory.left_out == 2
