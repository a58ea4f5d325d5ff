"""What the wire costs: pagewire's transports against a memcpy and bare sockets, stage by stage.

    python benchmarks/wire.py                      all rows, about four minutes
    python benchmarks/wire.py --quick              one frame size, two repeats: does it run?
    python benchmarks/wire.py --json wire.json     also every number that was measured
    python benchmarks/wire.py --rows shm --sizes 1M,2M

Two processes on this host move bytes through real sockets and shared memory. All rows of a repeat are
measured one after the other, then the next repeat begins, and every ratio is taken within a repeat: a machine
that is busy for a while slows a row and its yardstick alike. A table shows the median; --json has the middle
half.

Rows, each with what the one before it does and more (see wire_work.py):
    transport    cold bytes -> the wire's room -> private memory of the receiver
    checked      + headers, xxh3-64 at both ends
    pages        + gathered from, and scattered to, pages of a KV cache that lie in no order
    handoff      the whole protocol: reserve, grant, credit, commit, adopt, for prompts of 2,048 tokens
Yardsticks: memcpy of cold bytes to cold memory in one process; sendall and recv_into, whose receiver has the
bytes in private memory. `+curve` is the same wire encrypted and authenticated by CURVE. `nixl` rows appear
where it can be imported; `bare nixl` is a READ by the receiver of what the sender staged, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

from measure import Middle, Spent, machine, progress, ratios, table
from pages_alone import alone
from wire_ends import ends
from wire_work import Memory, Spec

SIZES = {"64K": 64 << 10, "256K": 256 << 10, "1M": 1 << 20, "2M": 2 << 20, "4M": 4 << 20}
TOTAL = 192 << 20
SLOW_TOTAL = 48 << 20  # of rows that encrypt
ALONE = ("memcpy", "xxh3", "gather", "gather, ragged", "scatter", "scatter, ragged")
WIRES = (
    ("raw tcp", "transport"),
    ("raw unix", "transport"),
    *[("shm", stage) for stage in ("transport", "checked", "pages", "handoff")],
    *[("tcp", stage) for stage in ("transport", "checked", "pages", "handoff")],
    ("tcp+curve", "transport"),
    ("tcp+curve", "handoff"),
)
NIXL = (
    ("bare nixl", "transport"),
    *[("nixl", stage) for stage in ("transport", "checked", "pages", "handoff")],
)
Rows = dict[tuple[str, str, str], list[Spent]]  # by (name, layout, size): one for each repeat


class Far:
    """The receiving process. It takes one measurement at a time."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--far"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, spec: Spec, memory: Memory) -> Spent:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(asdict(spec)) + "\n")
        self._child.stdin.flush()
        spent = ends(spec)[0](spec, memory, self._hear)
        return replace(spent, cpu_far=float(self._hear()))

    def _hear(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit("the receiving process ended; its error is above")
        return str(json.loads(line))

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(10)


def far_main() -> None:
    """Measure what is asked for on stdin, until that is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def say(text: str) -> None:
        print(json.dumps(text), file=answers, flush=True)

    memory = Memory(seed=2)
    for line in sys.stdin:
        spec = Spec(**json.loads(line))
        say(str(ends(spec)[1](spec, memory, say)))


def run(sizes: list[str], layouts: list[str], repeats: int, wanted: str) -> Rows:
    far, memory, rows = Far(), Memory(seed=1), defaultdict(list)
    wires = [*WIRES, *(NIXL if find_spec("nixl") else ())]
    wires = [w for w in wires if wanted in ", ".join(w) or ", ".join(w) == "raw tcp, transport"]
    try:
        for repeat in range(-1, repeats):  # the first one warms everything up, and does not count
            for layout in layouts:
                for size in sizes:
                    for name, spent in _one_round(far, memory, wires, layout, SIZES[size]):
                        progress(f"repeat {repeat + 1} of {repeats}: {layout} {size} {name}")
                        if repeat >= 0:
                            rows[name, layout, size].append(spent)
    finally:
        far.close()
        progress("")
    return rows


def _one_round(far: Far, memory: Memory, wires: list[tuple[str, str]], layout: str, size: int):
    for what in ALONE:
        stage = "transport" if what in ("memcpy", "xxh3") else "pages"
        yield what, alone(what, Spec("", stage, size, TOTAL, layout), memory)
    for wire, stage in wires:
        total = SLOW_TOTAL if "+" in wire else TOTAL
        yield f"{wire}, {stage}", far.measure(Spec(wire, stage, size, total, layout), memory)


def yardstick(name: str) -> str:
    return "raw tcp, transport" if name.startswith(("tcp", "raw")) else "memcpy"


def show(rows: Rows, sizes: list[str], layout: str) -> str:
    names = list(dict.fromkeys(name for name, of, _ in rows if of == layout))
    parts = []
    for title, unit, what in (
        ("Throughput, GB/s (wall time against the yardstick)", "gb_per_s", "wall"),
        ("CPU of both processes, s/GB (against the yardstick)", "cpu_per_gb", "cpu"),
    ):
        lines = [[name, *(_cell(rows, name, layout, size, unit, what) for size in sizes)] for name in names]
        parts.append(f"{title}\n\n{table([f'{layout}: row', *sizes], lines)}")
    return "\n\n".join(parts)


def _cell(rows: Rows, name: str, layout: str, size: str, unit: str, what: str) -> str:
    mine, base = rows[name, layout, size], rows[yardstick(name), layout, size]
    ratio = ratios(mine, base, what)
    return f"{Middle.of(getattr(s, unit) for s in mine).median:.2f} ({ratio.median:.1f}x)"


def as_json(rows: Rows) -> list[dict[str, object]]:
    return [
        {
            "row": name,
            "layout": layout,
            "frame": size,
            "gb_per_s": Middle.of(s.gb_per_s for s in found).json(),
            "cpu_s_per_gb": Middle.of(s.cpu_per_gb for s in found).json(),
            "cpu_near_share": Middle.of(s.cpu_near / s.cpu for s in found).json(),
            "yardstick": yardstick(name),
            "wall_ratio": ratios(found, rows[yardstick(name), layout, size], "wall").json(),
            "cpu_ratio": ratios(found, rows[yardstick(name), layout, size], "cpu").json(),
        }
        for (name, layout, size), found in rows.items()
    ]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--repeats", type=int, default=5, help="how often each row is measured (5)")
    words.add_argument("--sizes", default=",".join(SIZES), help="frame sizes, of " + ", ".join(SIZES))
    words.add_argument("--layouts", default="demo", help="KV layouts, of demo, 8b")
    words.add_argument("--rows", default="", help="only rows with this in their name, and the yardsticks")
    words.add_argument("--quick", action="store_true", help="1M frames, two repeats")
    words.add_argument("--json", type=Path, help="write every number here")
    words.add_argument("--far", action="store_true", help=argparse.SUPPRESS)
    args = words.parse_args()
    if args.far:
        far_main()
        return
    sizes, repeats = (["1M"], 2) if args.quick else (args.sizes.split(","), args.repeats)
    layouts, began, where = args.layouts.split(","), time.monotonic(), machine()
    rows = run(sizes, layouts, repeats, args.rows)
    print(json.dumps(where))
    for layout in layouts:
        print(f"\n{show(rows, sizes, layout)}")
    print(f"\n{repeats} repeats, {time.monotonic() - began:.0f} s, load at the end {machine()['load']}")
    if args.json:
        args.json.write_text(json.dumps({"machine": where, "rows": as_json(rows)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
