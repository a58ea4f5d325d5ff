"""Clients that hang up in each phase of a request's life: F12 of ``make chaos``, a few of each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

from report import Plan
from scenario_phases import PHASES, in_each_phase

pytestmark = pytest.mark.e2e


def test_a_client_may_leave_in_any_phase() -> None:
    row = in_each_phase(Plan(scale=0.03, seed=7))
    assert (row.verdict, row.problems) == ("pass", []), row.as_dict()
    assert row.runs >= 3 * len(PHASES)
