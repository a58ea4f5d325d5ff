"""`make chaos`: break a running pagewire on purpose, and print one row a scenario.

    .venv/bin/python tests/chaos/run.py [F1 F11 ...] [--repeats 20] [--scale 1.0] [--seed 1] [--json FILE]

Every fault is real (signals, sockets, network namespaces) and is verified to have happened: a scenario whose
fault did not take effect is an ERROR. Exit code 1 unless all rows pass.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

sys.path[:0] = [
    str(Path(__file__).parent),
    *(str(Path(__file__).parents[n] / s) for n, s in ((1, ""), (1, "e2e"))),
]

from report import FaultMissing, Plan, Row, Scenario  # noqa: E402


def scenarios() -> dict[str, Scenario]:
    """All scenarios by name, F1 first."""
    found: dict[str, Scenario] = {}
    for file in Path(__file__).parent.glob("scenario_*.py"):
        found |= importlib.import_module(file.stem).SCENARIOS
    return dict(sorted(found.items(), key=lambda item: (_number(item[0]), item[0])))


def run(name: str, scenario: Scenario, plan: Plan) -> Row:
    """One scenario to its row; what it raises becomes a problem of the row."""
    began = time.monotonic()
    try:
        row = scenario(plan)
    except FaultMissing as missing:
        row = Row(name, "", runs=1, problems=[f"the fault did not happen: {missing}"])
    except Exception:  # whatever it is, the other scenarios are to be run
        row = Row(name, "", runs=1, problems=[traceback.format_exc(limit=-3)])
    row.seconds = time.monotonic() - began
    return row


def table(rows: list[Row]) -> Table:
    out = Table(title="pagewire chaos", title_justify="left")
    for column in ("", "scenario", "runs", "fault seen", "units", "equal", "by name", "wrong"):
        out.add_column(column, justify="left" if column in ("", "scenario") else "right", overflow="fold")
    for column in ("slowest", "bound", "leaked", "verdict"):
        out.add_column(column, justify="right")
    for row in rows:
        numbers = (row.runs, row.verified, f"{row.units} {row.unit}", row.equal, row.named, row.wrong)
        bound = "" if row.bound_s is None else f"{row.bound_s:g} s"
        out.add_row(
            row.scenario,
            row.title,
            *map(str, numbers),
            f"{row.slowest_s:.2f} s",
            bound,
            str(row.leaked),
            row.verdict,
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("only", nargs="*", help="scenarios, such as F1 or F1-F7; default: all")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each scenario with signals")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the counts: 0.01 makes 1,000 disconnects 10"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    args = parser.parse_args()
    console, rows, known = _console(), [], scenarios()
    chosen = [name for name in known if not args.only or any(_matches(name, word) for word in args.only)]
    if not chosen:
        parser.error(f"no such scenario; there are: {', '.join(known)}")
    for number, name in enumerate(chosen, start=1):
        prefix = f"{number}/{len(chosen)} {name}"
        with console.status(prefix) as status:
            step = partial(_show, status, prefix)
            row = run(name, known[name], Plan(args.repeats, args.scale, args.seed, step))
        rows.append(row)
        console.print(f"{row.verdict:5} {row.scenario} {row.title} ({row.seconds:.0f} s)")
        if args.json:
            args.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1))
    console.print(table(rows))
    for row in rows:
        for line in (*row.notes, *(f"PROBLEM {problem}" for problem in row.problems)):
            console.print(f"{row.scenario}: {line}", markup=False, highlight=False)
    return 0 if all(row.verdict == "pass" for row in rows) else 1


def _console() -> Console:
    """Wide enough for the table where nobody says how wide it is."""
    console = Console()
    return console if console.is_terminal else Console(width=170)


def _show(status: Status, prefix: str, text: str) -> None:
    status.update(f"{prefix}: {text}")


def _number(name: str) -> int:
    return int("".join(c for c in name.partition(" ")[0] if c.isdigit()))


def _matches(name: str, word: str) -> bool:
    """Whether ``word`` means ``name``: F3 also means F3a, F1-F7 all between."""
    low, _, high = word.upper().partition("-")
    if high:
        return _number(low) <= _number(name) <= _number(high)
    return name.upper() == low or (low.lstrip("F").isdigit() and _number(name) == _number(low))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no cluster is left running
    sys.exit(main())
