"""The report for a terminal of which only the end arrives: all of it in few characters, the sum last.

Knows the report's columns; measures nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from benchmarks.gpu.report import COLUMNS, Column, Report

LIMIT = 11_500  # characters that surely arrive
_RIGHT = {"us", "rate", "ceil", "error", "+-"}


def page(report: Report) -> str:
    """All of it in ``LIMIT`` characters: what matters least goes first."""
    keeps: list[tuple[set[str], int]] = [(set(), 200), ({"+-"}, 200), ({"+-", "error"}, 34)]
    keeps.append(({"+-", "error", "rate"}, 26))
    text = ""
    for without, width in keeps:
        columns = [column for column in COLUMNS if column[0] not in without]
        text = _lines(report, columns, width, 10_000)
        if len(text) <= LIMIT:
            return text
    for length in (400, 200, 120, 80):
        text = _lines(report, columns, width, length)
        if len(text) <= LIMIT:
            return text
    return f"(the beginning is in gpu.md)\n{text[100 - LIMIT :]}"


def _lines(report: Report, columns: Sequence[Column], width: int, length: int) -> str:
    title = f"{report.title}: A PROOF ON A CPU, NO TIME HERE MEANS ANYTHING" if report.prove else report.title
    lines = [title, report.about(), f"ceilings: {report.ceilings()}"]
    every = report.rows()
    texts = {id(row): [_cut(text(row), width) for _, text in columns] for row in every if not row.trouble}
    widths = [
        max([len(name), *(len(cells[i]) for cells in texts.values())]) for i, (name, _) in enumerate(columns)
    ]
    lines.append("  " + _padded(columns, [name for name, _ in columns], widths))
    for kernel, group in itertools.groupby(every, key=lambda row: row.kernel):
        lines.append(kernel)
        for row in group:
            lines.append(
                "  "
                + (f"{row.shape}  {row.trouble}" if row.trouble else _padded(columns, texts[id(row)], widths))
            )
    lines.append(
        "* timed as direct launches, not in a graph; t: with the launch parameters that tuning chose"
    )
    lines += report.sayings()
    return "\n".join([*(_cut(line, length) for line in lines), report.summary()])


def _padded(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if name in _RIGHT else cell.ljust(width)
        for (name, _), cell, width in zip(columns, cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
