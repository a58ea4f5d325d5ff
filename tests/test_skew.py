"""Neighbouring versions read each other's messages, and within a version all stays exact."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, field, make_dataclass
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.codec import Codec, NewerMessage, seal
from pagewire.errors import RemoteProtocolError
from pagewire.schema import broken, schema_of

OLD, NEW = 7, 8


class Kind(NamedTuple):
    """A type that a field may have, before and after, and what it may hold."""

    old: Any
    new: Any
    values: st.SearchStrategy[Any]
    default: Any


class Pair(NamedTuple):
    """A class in two versions; values are maps of the fields, nested classes too."""

    old: type
    new: type
    values: st.SearchStrategy[dict[str, Any]]


ints, texts = st.integers(-(2**63), 2**64 - 1), st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PLAIN = [
    Kind(int, int, ints, 5),
    Kind(str, str, texts, "x"),
    Kind(bool, bool, st.booleans(), True),
    Kind(float, float, st.floats(allow_nan=False), 0.5),
    Kind(int | None, int | None, st.none() | ints, None),
    Kind(tuple[int, str], tuple[int, str], st.tuples(ints, texts), (1, "a")),
    Kind(tuple[str, ...], tuple[str, ...], st.lists(texts, max_size=3).map(tuple), ()),
    Kind(dict[str, float], dict[str, float], st.dictionaries(texts, st.floats(0, 1), max_size=3), {"a": 1.0}),
    Kind(list[tuple[int, float]], list[tuple[int, float]], st.lists(st.tuples(ints, st.floats(0, 1))), []),
]


def made(name: str, kinds: list[Kind], which: str, defaulted: int) -> type:
    """A dataclass of ``kinds``, of which those from ``defaulted`` on have defaults."""
    parts = []
    for at, kind in enumerate(kinds):
        default = field(default_factory=lambda kind=kind: kind.default) if at >= defaulted else field()
        parts.append((f"f{at}", getattr(kind, which), default))
    return make_dataclass(name, parts, frozen=True)


@st.composite
def pairs(draw: st.DrawFn, name: str = "Outer", kinds: list[Kind] | None = None) -> Pair:
    """Some fields, the last of them with defaults, and in the newer version some more."""
    shared = draw(st.lists(st.sampled_from(kinds or PLAIN), min_size=1, max_size=5))
    added = draw(st.lists(st.sampled_from(PLAIN), max_size=3))
    needed = draw(st.integers(0, len(shared)))
    old = made(name, shared, "old", needed)
    new = made(name, [*shared, *added], "new", needed)
    values = st.fixed_dictionaries({f"f{at}": kind.values for at, kind in enumerate([*shared, *added])})
    return Pair(old, new, values)


@st.composite
def nested(draw: st.DrawFn) -> Pair:
    """As ``pairs``, with another class in fields and as rows, and in those another one."""
    kinds = list(PLAIN)
    for name in ("Inner", "Middle"):
        pair = draw(pairs(name, kinds))
        rows = st.lists(pair.values, max_size=3)
        kinds += [
            Kind(pair.old, pair.new, pair.values, None),
            Kind(list[pair.old], list[pair.new], rows, []),  # type: ignore[name-defined]
            Kind(pair.old | None, pair.new | None, st.none() | pair.values, None),
        ]
    return draw(pairs("Outer", kinds))


def of(cls: Any, values: Any) -> Any:
    """An instance of ``cls`` from maps, as far as it has the fields."""
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        kinds = {f.name: f.type for f in dataclasses.fields(cls)}
        return cls(**{name: of(kinds[name], value) for name, value in values.items() if name in kinds})
    args = getattr(cls, "__args__", ())
    if isinstance(values, list) and args:
        return [of(args[0], value) for value in values]
    if isinstance(values, dict) and len(args) == 2 and dataclasses.is_dataclass(args[0]):
        return of(args[0], values)
    return values


def known(cls: Any, values: Any) -> Any:
    """What of ``values`` a class knows: without what was added."""
    return asdict(of(cls, values))


def refused(codec: Codec, data: bytes) -> bool:
    with pytest.raises(RemoteProtocolError):
        codec.decode(data)
    return True


@given(nested(), st.data())
@settings(max_examples=150)
def test_an_older_process_reads_what_it_knows_of_a_newer_message(pair: Pair, data: st.DataObject) -> None:
    values = data.draw(pair.values)
    sent = Codec(pair.new, level=NEW).encode(of(pair.new, values))
    assert asdict(Codec(pair.old, level=OLD).decode(sent)) == known(pair.old, values)


@given(nested(), st.data())
@settings(max_examples=150)
def test_a_newer_process_fills_in_what_an_older_message_lacks(pair: Pair, data: st.DataObject) -> None:
    values = known(pair.old, data.draw(pair.values))
    sent = Codec(pair.old, level=OLD).encode(of(pair.old, values))
    assert Codec(pair.new, level=NEW).decode(sent) == of(pair.new, values)


@given(nested(), st.data())
@settings(max_examples=100)
def test_within_one_version_and_two_apart_nothing_is_forgiven(pair: Pair, data: st.DataObject) -> None:
    values = data.draw(pair.values)
    for level in (NEW - 2, NEW + 2):
        sent = Codec(pair.new, level=NEW).encode(of(pair.new, values))
        assert refused(Codec(pair.new, level=level), sent)
    if len(dataclasses.fields(pair.new)) > len(dataclasses.fields(pair.old)):
        theirs = Codec(pair.new, level=NEW).encode(of(pair.new, values))
        assert refused(Codec(pair.old, level=NEW), theirs)
        ours = Codec(pair.old, level=NEW).encode(of(pair.old, values))
        assert refused(Codec(pair.new, level=NEW), ours)


@given(nested())
def test_such_changes_are_allowed(pair: Pair) -> None:
    old, new = (schema_of("0.1", (1, 0), {"there": Codec(cls)}, ()) for cls in (pair.old, pair.new))
    assert broken(old, new) == []


@dataclasses.dataclass(frozen=True)
class Row:
    number: int
    name: str = "x"


@dataclasses.dataclass(frozen=True)
class Table:
    rows: list[Row]
    title: str = ""


def table(level: int, rows: list[Any], **more: Any) -> bytes:
    return seal(msgpack.packb([level, "Table", {"rows": rows} | more]))


HERE = Codec(Table, level=NEW)


def test_what_each_side_may_leave_out() -> None:
    assert HERE.decode(table(OLD, [[1], [2, "y"]])) == Table([Row(1), Row(2, "y")])
    assert HERE.decode(table(NEW + 1, [[1, "y", 9.0]], title="t", more=[1])) == Table([Row(1, "y")], "t")


@pytest.mark.parametrize(
    "data",
    [
        table(OLD, [[1]], more=1),  # an older side says nothing new
        table(OLD, [[1, "y", 9.0]]),
        table(OLD, [[]]),  # and leaves out only what has a default
        seal(msgpack.packb([OLD, "Table", {"title": "t"}])),
        table(NEW + 1, [[1, "y"]]),  # a newer side leaves out nothing
        table(NEW + 1, [[1]], title="t"),
        table(NEW, [[1]], title="t"),
        table(NEW, [[1, "y"]]),
        table(NEW + 1, [[1.0, "y"]], title="t"),  # types are exact whoever wrote
        table(OLD, [["1"]]),
        table(True, [[1, "y"]], title="t"),
        seal(msgpack.packb([float(NEW), "Table", {"rows": [], "title": ""}])),
        seal(msgpack.packb(["8", "Table", {"rows": [], "title": ""}])),
    ],
    ids=range(13),
)
def test_and_what_not(data: bytes) -> None:
    assert refused(HERE, data)


def test_a_word_that_only_a_newer_side_knows_is_to_be_ignored() -> None:
    for level, kind in ((NEW + 1, NewerMessage), (NEW, RemoteProtocolError), (OLD, RemoteProtocolError)):
        with pytest.raises(RemoteProtocolError) as caught:
            HERE.decode(seal(msgpack.packb([level, "Later", {}])))
        assert type(caught.value) is kind
