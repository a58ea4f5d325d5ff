"""F13: 200 clients that read at 1 KB/s and 200 that never read, at a router whose nodes are stubs, so that
what is seen is the router's own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.slow_readers import measure

pytestmark = pytest.mark.soak

TOKENS_A_SECOND = 4.0


@pytest.fixture
def router() -> Iterator[tuple[str, int]]:
    """URL and process id."""
    script = Path(__file__).with_name("stub_router.py")
    command = [sys.executable, str(script), str(TOKENS_A_SECOND)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.kill()


def test_slow_readers_are_cut_and_nobody_else_feels_them(router: tuple[str, int]) -> None:
    found = asyncio.run(measure(*router, seconds=90.0))
    print(found.line)
    assert found.held, found.line
