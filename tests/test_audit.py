from __future__ import annotations

import logging

import pytest

from pagewire.audit import Audit, clean


def test_one_line_a_second_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(logging.getLogger("audit-test"))
    for tenth in range(25):
        audit.note(tenth / 10, f"line {tenth}")
    assert caplog.messages == [
        "line 0",
        "line 10 (9 more since the last such line)",
        "line 20 (9 more since the last such line)",
    ]


def test_what_a_stranger_says_stays_on_its_line() -> None:
    assert clean("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
    assert len(clean("x" * 9999)) == 300
