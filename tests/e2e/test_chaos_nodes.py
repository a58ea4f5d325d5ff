"""A taste of `make chaos` for nodes: a decode node killed at an exact point, and faults that do not hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

from faults import stopping
from report import FaultMissing, Plan
from scenario_decode import SCENARIOS

pytestmark = pytest.mark.e2e


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process.pid
        process.kill()


def test_a_decode_node_that_dies_with_a_landed_prompt_changes_no_token() -> None:
    row = SCENARIOS["F1c"](Plan(repeats=1))
    assert (row.runs, row.verified) == (1, 1)
    assert not row.problems
    assert row.equal == row.units == 16
    assert not row.leaked


def test_a_stop_that_does_not_last_is_no_stop(sleeper: int) -> None:
    with stopping("sleeper", sleeper) as stopped:
        stopped.last(0.1)
        os.kill(sleeper, signal.SIGCONT)
        with pytest.raises(FaultMissing):
            stopped.last(5.0)


def test_a_stopped_process_is_woken_whatever_happens(sleeper: int) -> None:
    with pytest.raises(KeyError), stopping("sleeper", sleeper) as stopped:
        raise KeyError
    end = time.monotonic() + 5
    while stopped.asleep() and time.monotonic() < end:
        time.sleep(0.01)
    assert not stopped.asleep()
