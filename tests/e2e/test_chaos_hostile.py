"""The hostile scenarios of ``make chaos`` in small: the same code, a few hundred frames each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

import scenario_frames as frames
from report import Plan, Row


def good(row: Row) -> bool:
    assert row.problems == []
    return row.verdict == "pass"


@pytest.mark.parametrize("address", [frames.TCP, frames.SHM])
def test_wrong_frames_are_counted_and_change_nothing(address: str) -> None:
    row = Row("F15", "")
    frames.attack_receiver(Plan(scale=0.1), row, address, "small", 1000)
    assert good(row)


def test_a_sender_outlives_a_receiver_that_talks_nonsense() -> None:
    row = Row("F15", "")
    frames.attack_sender(Plan(), row, frames.TCP, "small", 600)
    assert good(row)


def test_stale_references_change_nothing() -> None:
    assert good(frames.f20(Plan(repeats=1)))
