"""The trace that placement is measured with, and what is made of what was heard."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import placement
import traces
from placement import Heard, result

Row = traces.Row


def row(at: float, length: int, *ids: int) -> traces.Row:
    return Row(at, length, 4, ids)


def test_prompts_share_what_their_ids_say() -> None:
    first, second = row(0, 20, 1, 2, 3).prompt(8), row(0, 24, 1, 2, 4).prompt(8)
    assert (len(first), len(second)) == (20, 24)
    assert first[:16] == second[:16]
    assert first[16:] != second[16:20]


def test_blocks_of_another_size_are_noticed() -> None:
    with pytest.raises(AssertionError, match="another size"):
        row(0, 100, 1, 2).prompt(32)


def test_whole_conversations_are_taken() -> None:
    rows = [row(0, 16, 0, 1), row(1, 16, 0, 2), row(2, 24, 0, 1, 3), row(3, 24, 0, 2, 4), row(4, 16, 0, 5)]
    assert [each.at for each in traces.every(rows, 2)] == [0, 2, 4]


def test_what_one_cache_would_find() -> None:
    assert traces.reusable([row(0, 16, 1, 2), row(1, 24, 1, 2, 3)], 8) == pytest.approx(16 / 40)
    assert traces.reusable([row(0, 16, 1, 2), row(1, 16, 1, 2)], 8) == pytest.approx(15 / 32)


def test_a_line_of_the_file_is_a_row(tmp_path: Path) -> None:
    told = {"timestamp": 1500, "input_length": 9, "output_length": 0, "hash_ids": [7, 8]}
    (tmp_path / "t.jsonl").write_text(json.dumps(told) + "\n")
    assert traces.read(tmp_path / "t.jsonl") == [Row(1.5, 9, 1, (7, 8))]


def test_failed_requests_are_counted_apart() -> None:
    by = "prefill={}; decode=decode-0; why=load"
    heard = [
        Heard(100, 1.0, 2.0, 50, by.format("prefill-0")),
        Heard(100, 3.0, 4.0, 0, by.format("decode-0")),
        Heard(100, error="gone"),
    ]
    found = result("prefix", heard, 0.0)
    assert (found.hit_rate, found.mean, found.alone, found.errors) == (0.25, 2.0, 1, 1)
    assert found.readers == {"decode-0": 1, "prefill-0": 1}
    assert "prefix" in placement.show([found])
