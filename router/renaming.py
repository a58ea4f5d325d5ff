"""Errors about a field under the name by which the client sent it.

Knows names; knows no API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pagewire.errors import RequestError


@contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """A RequestError about a field in ``names`` goes on as one about what that is called there."""
    try:
        yield
    except RequestError as error:
        name = (error.param or "").partition(".")[0].partition("[")[0]
        if name in names:
            rest = (error.param or "").removeprefix(name)
            error.args = (str(error).replace(name, names[name], 1),)
            error.param = names[name] + rest
        raise
