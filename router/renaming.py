"""Errors about a field under the name by which the client sent it.

Knows names; knows no API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pagewire.errors import RequestError


@contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """A RequestError about a field in ``names``, or about a part of it, goes on as one about what that is
    called there. The longest name counts.
    """
    try:
        yield
    except RequestError as error:
        for name in sorted(names, key=len, reverse=True):
            rest = (error.param or "").removeprefix(name)
            if (error.param or "").startswith(name) and rest[:1] in ("", ".", "["):
                error.args = (str(error).replace(name, names[name], 1),)
                error.param = names[name] + rest
                break
        raise
