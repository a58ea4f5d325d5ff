from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from test_recorder import ENDED

from pagewire.logs import JsonLines
from router import request_log


def test_one_line_with_what_operators_look_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pagewire.request"):
        request_log.write(ENDED)
    (record,) = caplog.records
    found = json.loads(JsonLines("router").format(record))
    assert (found["id"], found["tokens_in"], found["tokens_cached"], found["tokens_out"]) == ("r", 9, 4, 8)
    assert (found["ttft_ms"], found["total_ms"], found["status"]) == (1000.0, 3500.0, 200)
    assert (found["prefill"], found["decode"]) == ("prefill-0", "decode-0")


def test_what_failed_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pagewire.request"):
        request_log.write(replace(ENDED, status=503, finish="error", code="worker_lost"))
        request_log.write(replace(ENDED, status=499, finish="abort"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
