"""What messages look like, release by release, and which changes a neighbouring release can live with.

Pure. Knows dataclasses and their annotations as plain text; knows no byte, and not which messages there are
(``pagewire.cli.schema`` collects them). ``pagewire/schemas/`` holds one file a minor version. What the next
one may do to it:

- a field may be added behind the others, with a default: a message of an older process lacks it, and an older
  process drops it. So the default has to mean "as before". What a request must not lose is kept away from
  older nodes (``beyond``).
- a message or a frame may be added: an older process ignores it.
- nothing else: no field is removed, renamed, moved or given another type, and no message goes.

A change of frames raises the minor version of the handoff by one, once a release.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from functools import cache
from hashlib import blake2b
from importlib import resources
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from pagewire.codec import Codec
from pagewire.typed import build, has_default
from pagewire.versions import release_of

Fields = dict[str, str]  # name -> type, as in a stub: "int", or "int = ..." with a default
_DEFAULT = " = ..."


@dataclass(frozen=True, slots=True)
class Schema:
    """All that processes of one release say to each other: ``messages`` by direction, ``frames`` by the order
    of their numbers, and the fields of each class in either."""

    version: str
    handoff: tuple[int, int]
    messages: dict[str, tuple[str, ...]]
    frames: tuple[str, ...]
    classes: dict[str, Fields]

    def to_json(self) -> str:
        """A line for each field, so that a diff says what has changed."""
        return json.dumps(asdict(self), indent=1) + "\n"


def schema_of(
    version: str, handoff: tuple[int, int], messages: Mapping[str, Codec], frames: tuple[type, ...]
) -> Schema:
    names = {direction: tuple(codec.classes) for direction, codec in messages.items()}
    sent = [cls for codec in messages.values() for cls in codec.classes.values()]
    return Schema(version, handoff, names, tuple(cls.__name__ for cls in frames), _described(*sent, *frames))


def fingerprint(*codecs: Codec) -> str:
    """8 hex digits of all that these codecs can carry: every class, field and type."""
    found = _described(*(cls for codec in codecs for cls in codec.classes.values()))
    lines = sorted(f"{name}({', '.join(f'{n}: {t}' for n, t in of.items())})" for name, of in found.items())
    return blake2b("\n".join(lines).encode(), digest_size=4).hexdigest()


@cache
def released(level: int) -> Schema | None:
    """The schema of that release, or None if none is kept."""
    file = resources.files("pagewire.schemas") / f"{release_of(level)}.json"
    return build(Schema, json.loads(file.read_text())) if file.is_file() else None


# --- comparing ----------------------------------------------------------------------------------------------


def broken(old: Schema, new: Schema) -> list[str]:
    """Why processes of ``new`` could not work beside those of ``old``, a sentence each; [] if they can."""
    found = [
        f"{name} is gone from {direction}: an older process sends it"
        for direction, names in old.messages.items()
        for name in names
        if name not in new.messages.get(direction, ())
    ]
    if new.frames[: len(old.frames)] != old.frames:
        found.append("frames that exist keep their numbers: new ones go behind them")
    for name, known in old.classes.items():
        found += _broken_class(name, known, new.classes.get(name))
    return found + _broken_handoff(old, new)


def _broken_class(name: str, old: Fields, new: Fields | None) -> list[str]:
    if new is None:
        return [f"{name} is gone: an older process sends it"]
    found = []
    for field, kind in old.items():
        if field not in new:
            found.append(f"{name}.{field} is gone: an older process needs it")
        elif _bare(new[field]) != _bare(kind):
            found.append(f"{name}.{field} was {_bare(kind)} and is {_bare(new[field])}")
    for field in new:
        if field not in old and not new[field].endswith(_DEFAULT):
            found.append(f"{name}.{field} was added without a default: an older process does not send it")
    if not found and list(new)[: len(old)] != list(old):
        found.append(f"{name}: its fields keep their order, and new ones go behind them")
    return found


def _broken_handoff(old: Schema, new: Schema) -> list[str]:
    (major, minor), (now_major, now_minor) = old.handoff, new.handoff
    if now_major != major or not minor <= now_minor <= minor + 1:
        return [f"the handoff went from version {major}.{minor} to {now_major}.{now_minor}"]
    if now_minor == minor and (new.frames, _headers(new)) != (old.frames, _headers(old)):
        return [f"frames have changed, and the handoff is still of version {major}.{minor}"]
    return []


def _headers(schema: Schema) -> list[tuple[str, Fields]]:
    """The frames' headers and what is in them."""
    names = list(schema.frames)
    for name in names:  # which grows meanwhile
        inner = re.findall(r"\w+", " ".join(schema.classes[name].values()))
        names += [word for word in inner if word in schema.classes and word not in names]
    return [(name, schema.classes[name]) for name in names]


def _bare(kind: str) -> str:
    return kind.removesuffix(_DEFAULT)


def beyond(message: object, known: Mapping[str, Fields]) -> str:
    """The first field of ``message`` that ``known`` lacks and that says something other than its default; ""
    if whoever knows no more than that misses nothing."""
    assert is_dataclass(message)
    name = type(message).__name__
    for field in fields(message):
        value = getattr(message, field.name)
        if field.name not in known.get(name, {}):
            if value != _default(field):
                return f"{name}.{field.name}"
        elif is_dataclass(value) and (found := beyond(value, known)):
            return found
    return ""


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


# --- describing ---------------------------------------------------------------------------------------------


def _described(*classes: type) -> dict[str, Fields]:
    """The fields of these and of every dataclass within."""
    found: dict[str, Fields] = {}
    for cls in classes:
        _describe(cls, found)
    return found


def _describe(hint: Any, found: dict[str, Fields]) -> str:
    """The name of a type; ``found`` gets what is in it, if it is a dataclass."""
    if isinstance(hint, NewType):
        return _describe(hint.__supertype__, found)
    if isinstance(hint, type) and is_dataclass(hint):
        if hint.__name__ not in found:
            found[hint.__name__] = own = Fields()  # at once: a class may hold itself
            hints = get_type_hints(hint)
            for field in fields(hint):
                kind = _describe(hints[field.name], found)
                own[field.name] = kind + _DEFAULT if has_default(field) else kind
        return hint.__name__
    if args := get_args(hint):
        origin = get_origin(hint)
        name = "Union" if origin in (Union, types.UnionType) else origin.__name__
        return f"{name}[{', '.join(_describe(arg, found) for arg in args)}]"
    return "..." if hint is Ellipsis else str(hint.__name__)
