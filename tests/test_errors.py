"""The error tree is the one that its docstring draws, and each error carries what its HTTP reply needs."""

from __future__ import annotations

import re

import pytest

from pagewire import errors
from pagewire.errors import PagewireError, PromptTooLong, RequestError, Unavailable
from pagewire.layout import KVLayout

ALL = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, PagewireError)]


def drawn() -> dict[str, str]:
    """Each error in the docstring's tree, and its parent there."""
    parents: dict[str, str] = {}
    branch: list[tuple[int, str]] = [(0, "PagewireError")]
    for match in re.finditer(r"^([ |]*)\+-- (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth, name = len(match[1]), match[2]
        while branch[-1][0] >= depth:
            branch.pop()
        parents[name] = branch[-1][1]
        branch.append((depth, name))
    return parents


def test_the_tree_is_the_one_drawn() -> None:
    assert {c.__name__: c.__base__.__name__ for c in ALL if c is not PagewireError and c.__base__} == drawn()


def test_each_code_is_one_word_and_nobody_elses() -> None:
    codes = [c.code for c in ALL]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


def test_statuses_are_the_drawn_ones() -> None:
    statuses = {c.__name__: c.status for c in ALL if "status" in vars(c)}
    assert statuses == {
        "RequestError": 400,
        "UnknownModel": 404,
        "RequestFailed": 500,
        "WorkerLost": 503,
        "DeadlineExceeded": 504,
    }


def test_a_request_error_names_its_field() -> None:
    error = PromptTooLong("12 > 10", param="prompt")
    assert (str(error), error.param, error.code, error.status) == (
        "12 > 10",
        "prompt",
        "context_length_exceeded",
        400,
    )


def test_a_code_of_its_own_stays_with_the_instance() -> None:
    assert RequestError("x", code="special").code == "special"
    assert RequestError("x").code == "invalid_request"


@pytest.mark.parametrize("status", [429, 503])
def test_unavailable_says_when_to_come_back(status: int) -> None:
    error = Unavailable("busy", status=status, retry_after=2.5)
    assert (error.status, error.retry_after) == (status, 2.5)


# --- what two nodes agree on ---

LAYOUT = KVLayout(layers=3, kv_heads=2, head_dim=8, dtype="bfloat16", model="m")


def test_token_bytes_are_those_of_a_slab_of_one_token() -> None:
    assert LAYOUT.slab_shape(5) == (3, 2, 5, 2, 8)
    assert LAYOUT.token_bytes == 3 * 2 * 2 * 8 * 2


def test_equal_layouts_have_no_mismatch_and_others_name_theirs() -> None:
    other = KVLayout(layers=3, kv_heads=1, head_dim=8, dtype="float32", model="m")
    assert LAYOUT.mismatch(LAYOUT) is None
    assert LAYOUT.mismatch(other) == "kv_heads 2 != 1, dtype bfloat16 != float32"


@pytest.mark.parametrize(
    "changed", [{"layers": 0}, {"kv_heads": -1}, {"head_dim": 0}, {"dtype": "int3"}], ids=str
)
def test_a_layout_that_cannot_be_is_refused(changed: dict[str, object]) -> None:
    fields = {"layers": 1, "kv_heads": 1, "head_dim": 1, "dtype": "float32", "model": ""} | changed
    with pytest.raises(errors.ConfigError):
        KVLayout(**fields)  # type: ignore[arg-type]
