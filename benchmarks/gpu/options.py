"""What ``python -m benchmarks.gpu`` can be told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = """Check and time the kernels on a GPU: one call, one table, without network, in under 9 minutes.

    python -m benchmarks.gpu --out figures              measure everything
    python -m benchmarks.gpu --out figures --all        and run the kernels' tests compiled and under memcheck
    python -m benchmarks.gpu --out figures --tune       and look for better launch parameters
    python -m benchmarks.gpu --only gemm,pages          some sections
    python -m benchmarks.gpu --prove                    on a CPU, tiny shapes: does it run, is it right?
    python -m benchmarks.gpu --list --given copy=3000,bf16=700     cases and their floors, without a GPU

Run it in the repository's root; it needs torch, triton and numpy, for the tests pytest and hypothesis too.

What happens, in this order: everything that will be launched is compiled by many processes at once (with
--all the tests run beside them); then each section, a process of its own, measures the card's ceilings, and
each of its cases is checked against a float64 reference and, if it is right, timed in two rounds beside its
peers; with --all memcheck comes last. A case that raises, crashes or hangs costs itself only. What one part
leaves of its time goes to those after it.

--out gets results.json (every number), gpu.md (the table, to be put under docs/benchmarks/), log.txt (what
the processes printed) and, with --tune, the table of launch parameters, to be put under kernels/tuned/.
"""
EPILOG = """Columns: us of one launch; TFLOP/s (T) or GB/s (G), whichever bounds it; the share of the
ceiling that was measured in the same process (the floor over the time); how many times as long the best peer
takes; the relative error; the difference of the two rounds; the target. The status is 0 if every case ran and
was right, whatever the targets, and every test passed."""

HERE = Path(__file__).parent


def _folder(text: str) -> Path:
    return Path(text).resolve()


def _names(text: str) -> list[str]:
    return [] if text == "none" else text.split(",")


def _given(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (each.split("=") for each in text.split(","))}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--out", type=Path, metavar="DIR", help="where the files go; without it there is only what is printed"
    )
    add("--seconds", type=float, default=510.0, metavar="S", help="for the whole call (%(default).0f)")
    add("--only", type=_names, metavar="NAME,...", help="these sections, in this order; none: only checks")
    add("--prove", action="store_true", help="on a CPU under Triton's interpreter, with tiny shapes")
    add(
        "--list",
        nargs="?",
        const="any",
        metavar="",
        help="print sections, cases and their floors; run nothing",
    )
    add(
        "--given",
        type=_given,
        default={},
        metavar="NAME=RATE,...",
        help="ceilings for --list: GB/s and TFLOP/s",
    )
    add("--tune", action="store_true", help="time each case's other launch parameters; needs --out")
    add(
        "--tune-seconds", type=float, default=150.0, metavar="S", help="of --seconds, at most (%(default).0f)"
    )
    add("--exact", action="store_true", help="run tests/kernels/cases_*.py compiled")
    add(
        "--sanitize",
        action="store_true",
        help="run them under compute-sanitizer, as many as there is time for",
    )
    add("--all", action="store_true", help="--exact --sanitize")
    add("--test-filter", default="", metavar="EXPR", help="pytest's -k for the two")
    add("--patience", type=float, default=30.0, metavar="S", help="of silence: a case hangs (%(default).0f)")
    add("--sections", type=_folder, default=HERE, metavar="DIR", help="where section_*.py are (beside this)")
    inner = parser.add_argument_group("one section, as the processes of a run are called")
    inner.add_argument("--section", metavar="NAME", help="run it in this process and print its events")
    inner.add_argument("--json", type=Path, metavar="FILE", help="append the events there")
    inner.add_argument(
        "--first", type=int, default=0, metavar="N", help="pass over the cases before this one"
    )
    inner.add_argument("--skip", action="append", default=[], metavar="N:WHAT", help="a peer, or tune")
    inner.add_argument("--warm", metavar="I/N", help="only launch everything once, one in N of it")
    options = parser.parse_args(arguments)
    if options.tune and not options.out and not options.section:
        parser.error("--tune needs --out: a folder for the table of launch parameters")
    options.exact |= options.all
    options.sanitize |= options.all
    return options
