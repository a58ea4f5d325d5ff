from __future__ import annotations

import os

import pytest

from pagewire.errors import RemoteProtocolError
from pagewire.status import Failed, Loading, Ready, Reporter, parse


def test_what_is_reported_is_read_back() -> None:
    reader, writer = os.pipe()
    reporter = Reporter(writer)
    reporter.loading(3, 8)
    reporter.ready(dtype="float32", pages=12)
    reporter.failed("bad_model", 'there is no "x"\nhere')
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        assert [parse(line) for line in lines] == [
            Loading(3, 8),
            Ready({"dtype": "float32", "pages": 12}),
            Failed("bad_model", 'there is no "x"\nhere'),
        ]


def test_nobody_listens() -> None:
    Reporter(None).loading(1, 2)


def test_the_reader_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Reporter(writer).ready()
    os.close(writer)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"loading",
        b"[]",
        b'{"event": "loading"}',
        b'{"event": "loading", "done": "1", "total": 2}',
        b"\xff",
    ],
)
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(line)
