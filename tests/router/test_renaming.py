from __future__ import annotations

import pytest

from pagewire.errors import PromptTooLong, RequestError
from router.renaming import renaming

NAMES = {"a": "b", "a.inner": "c"}


@pytest.mark.parametrize(
    ("param", "expected"),
    [("a", "b"), ("a[0].x", "b[0].x"), ("a.other", "b.other"), ("a.inner.x", "c.x"), ("ab", "ab")],
)
def test_a_field_gets_the_name_that_the_client_knows(param: str, expected: str) -> None:
    with pytest.raises(RequestError) as caught, renaming(NAMES):
        raise RequestError(f"{param} is wrong", param=param)
    assert caught.value.param == expected
    assert str(caught.value) == f"{expected} is wrong"


def test_what_kind_of_error_it_is_stays() -> None:
    with pytest.raises(PromptTooLong), renaming(NAMES):
        raise PromptTooLong("a is long", param="a")
