"""The report for a terminal of which only the end arrives: all of it in few characters, the sum last.

A kernel has a line of its own with what is true of all its cases, and each case one below it, in columns that
are as wide as that kernel needs. Knows the report; measures nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from benchmarks.gpu.report import Report
from benchmarks.gpu.rows import Row

LIMIT = 11_500  # characters that surely arrive
LEGEND = "us (* direct, t tuned), GB/s or TFLOP/s, of ceiling, best peer / ours, error, spread, target"

# What is left out, and how long the lines beside the table and a shape may be, until all of it fits.
_LEVELS: list[tuple[set[str], int, int]] = [
    (set(), 400, 60),
    (set(), 240, 40),
    (set(), 160, 32),
    ({"spread"}, 140, 28),
    ({"spread", "error"}, 120, 24),
    ({"spread", "error", "rate"}, 80, 20),
]


def page(report: Report) -> str:
    text = ""
    for without, length, width in _LEVELS:
        text = "\n".join(_lines(report, without, length, width))
        if len(text) <= LIMIT:
            return text
    return f"(the beginning is in gpu.md)\n{text[100 - LIMIT :]}"


def _lines(report: Report, without: set[str], length: int, width: int) -> list[str]:
    title = f"{report.title}: A PROOF ON A CPU, NO TIME HERE MEANS ANYTHING" if report.prove else report.title
    lines = [title, report.about(), f"ceilings: {report.ceilings()}", LEGEND]
    hosts = report.hosts()
    for kernel, group in itertools.groupby(report.rows(), key=lambda row: row.kernel):
        lines += _group(kernel, list(group), hosts.get(kernel, ""), without, width)
    lines += report.sayings()
    return [*(_cut(line, length) for line in lines), report.summary()]


def _group(kernel: str, rows: Sequence[Row], host: str, without: set[str], width: int) -> list[str]:
    peers = {row.peer for row in rows if row.peer}
    common = peers.pop() if len(peers) == 1 else ""
    said = [f"peer {common}" if common else "", f"host {host}" if host else ""]
    heading = ", ".join([kernel, *(part for part in said if part)])
    cells = {id(row): _cells(row, common, without, width) for row in rows if not row.trouble}
    widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
    lines = [heading]
    for row in rows:
        if row.trouble:
            lines.append(f" {row.shape} {row.trouble}")
        else:
            padded = [
                cell.rjust(w) if i else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(cells[id(row)], widths, strict=True))
            ]
            lines.append(" " + " ".join(cell for cell in padded if cell).rstrip())
    return lines


def _cells(row: Row, common: str, without: set[str], width: int) -> list[str]:
    mark = "*" * (row.how == "direct") + "t" * row.tuned
    peer = "-" if row.ratio is None else f"{row.ratio:.2f}x" + ("" if common else f" {_cut(row.peer, 13)}")
    cells = {
        "shape": _cut(row.shape, width),
        "us": f"{row.us:.1f}{mark}" if row.us < 1000 else f"{row.us:.0f}{mark}",
        "rate": f"{row.rate:.0f}{row.unit[0]}" if row.rate >= 100 else f"{row.rate:.3g}{row.unit[0]}",
        "share": "" if row.share is None else f"{row.share:.0%}",
        "peer": peer,
        "error": ""
        if row.error is None
        else "0"
        if row.error == 0
        else f"{row.error:.0e}".replace("e-0", "e-"),
        "spread": f"{row.spread:.0%}",
        "target": _target(row),
    }
    return [cell for name, cell in cells.items() if name not in without]


def _target(row: Row) -> str:
    """``met``, or what it stays below: a share of the ceiling or a ratio to the peer."""
    if row.met is None:
        return "open" if row.target else ""
    return "met" if row.met else f"<{row.target}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
