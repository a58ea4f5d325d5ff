"""Messages may change only so that the release before still understands them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pagewire.cli.schema import spoken
from pagewire.messages import DecodeTarget, Epoch, NodeId, PrefillRequest, RequestId
from pagewire.sampling import SamplingParams
from pagewire.schema import Schema, beyond, broken, released
from pagewire.versions import LEVEL

NOW = spoken()
MAJOR, MINOR = NOW.handoff
UP = (MAJOR, MINOR + 1)


def test_messages_go_with_the_release_before() -> None:
    last = released(LEVEL - 1)
    assert last is None or broken(last, NOW) == []


def test_the_kept_schema_of_this_release_is_that_of_the_code() -> None:
    # If not: has this release gone out already? Then raise the minor version first. In either case:
    #   python -m pagewire.cli.schema
    assert released(LEVEL) == NOW


def changed(name: str, fields: dict[str, str | None], **more: Any) -> Schema:
    """This release with a class changed: a field with None is removed."""
    merged = NOW.classes[name] | fields
    kept = {field: kind for field, kind in merged.items() if kind is not None}
    return replace(NOW, classes=NOW.classes | {name: kept}, **more)


def reordered(name: str) -> Schema:
    fields = dict(reversed(NOW.classes[name].items()))
    return replace(NOW, classes=NOW.classes | {name: fields})


ALLOWED = {
    "nothing": NOW,
    "a field with a default": changed("Hello", {"colour": "str = ..."}),
    "a column with a default": changed("TokenItem", {"colour": "str = ..."}),
    "a default that is no more": changed("Hello", {"prefix_caching": "bool"}),
    "a message": replace(
        NOW,
        messages=NOW.messages | {"to_node": (*NOW.messages["to_node"], "Later")},
        classes=NOW.classes | {"Later": {"when": "int"}},
    ),
    "a header's field, and the handoff's minor": changed("Grant", {"colour": "int = ..."}, handoff=UP),
    "a frame, and the handoff's minor": replace(
        NOW, frames=(*NOW.frames, "Later"), classes=NOW.classes | {"Later": {}}, handoff=UP
    ),
}
WRONG = {
    "Hello.colour was added without a default": changed("Hello", {"colour": "str"}),
    "TokenItem.colour was added without a default": changed("TokenItem", {"colour": "str"}),
    "Hello.pid is gone": changed("Hello", {"pid": None}),
    "Load.steps was int and is float": changed("Load", {"steps": "float = ..."}),
    "TokenItem: its fields keep their order": reordered("TokenItem"),
    "Cancel is gone": replace(NOW, classes={k: v for k, v in NOW.classes.items() if k != "Cancel"}),
    "Cancel is gone from to_node": replace(NOW, messages=NOW.messages | {"to_node": ("Welcome", "Beat")}),
    "frames have changed": changed("Grant", {"colour": "int = ..."}),
    "frames that exist keep their numbers": replace(
        NOW, frames=("Later", *NOW.frames), classes=NOW.classes | {"Later": {}}, handoff=UP
    ),
    f"the handoff went from version {MAJOR}.{MINOR} to {MAJOR}.{MINOR + 2}": replace(
        NOW, handoff=(MAJOR, MINOR + 2)
    ),
    f"the handoff went from version {MAJOR}.{MINOR} to {MAJOR + 1}.0": replace(NOW, handoff=(MAJOR + 1, 0)),
}


@pytest.mark.parametrize("new", ALLOWED.values(), ids=ALLOWED)
def test_what_may_change(new: Schema) -> None:
    assert broken(NOW, new) == []


@pytest.mark.parametrize("reason", WRONG)
def test_what_may_not_is_said_by_name(reason: str) -> None:
    assert any(found.startswith(reason) for found in broken(NOW, WRONG[reason]))


def request(**sampling: Any) -> PrefillRequest:
    return PrefillRequest(
        *(RequestId("r"), 0, [0], [1, 2], 2, SamplingParams(**sampling), 7, "", 1000),
        DecodeTarget(NodeId("decode-0"), Epoch("e"), "shm://x"),
    )


def test_a_field_that_says_nothing_is_not_missed() -> None:
    older = changed("SamplingParams", {"min_p": None, "logit_bias": None}).classes
    assert beyond(request(), older) == ""
    assert beyond(request(min_p=0.1), older) == "SamplingParams.min_p"
    assert beyond(request(logit_bias={1: 2.0}), older) == "SamplingParams.logit_bias"
    assert beyond(request(min_p=0.1), NOW.classes) == ""
    assert beyond(replace(request(), priority=3), changed("PrefillRequest", {"priority": None}).classes) == (
        "PrefillRequest.priority"
    )
