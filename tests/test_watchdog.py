from __future__ import annotations

import subprocess
import sys

from pagewire.watchdog import EXIT_CODE, Watchdog


def test_a_loop_that_asks_for_the_time_is_left_alone() -> None:
    dog = Watchdog(2)
    for _ in range(10):
        dog.clock()
        assert not dog.tick()


def test_a_loop_that_stands_still_is_ended_after_so_many_ticks() -> None:
    dog = Watchdog(2)
    assert [dog.tick() for _ in range(3)] == [False, False, True]


def test_one_sign_of_life_starts_the_count_anew() -> None:
    dog = Watchdog(2)
    dog.tick()
    dog.tick()
    dog.clock()
    assert [dog.tick() for _ in range(3)] == [False, False, True]


def test_a_wedged_process_ends_and_says_where() -> None:
    code = """
import threading
from pagewire import watchdog
watchdog.TICK_S = 0.01
watchdog.Watchdog(3).start()
def wedged():
    threading.Event().wait(60)
wedged()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ended.returncode == EXIT_CODE
    assert "stood still for 3 s" in ended.stderr
    assert "in wedged" in ended.stderr
