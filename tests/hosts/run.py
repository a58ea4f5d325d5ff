"""pagewire on many hosts, for real: network namespaces on a bridge, redis, KV over tcp, secrets on.

    python tests/hosts/run.py --help
    python tests/hosts/run.py replay              500 requests over two routers, tokens against the oracle
    python tests/hosts/run.py redis router rolling drain ports roles

Each scenario prints what it promises and what came of it, and the exit code says whether all of it was kept.
Linux and root. The load comes from this process, beside the cluster on the same cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "e2e"), str(ROOT / "benchmarks")]

import scenarios  # noqa: E402
from bridge import possible  # noqa: E402
from measure import machine, table  # noqa: E402


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    names = [*scenarios.ALL]
    parser.add_argument("scenario", nargs="+", choices=names, metavar="SCENARIO", help=scenarios.told())
    parser.add_argument("--requests", type=int, default=500, help="of replay")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long redis is away")
    parser.add_argument("--load", type=int, default=1500, help="requests that there are, for all but replay")
    parser.add_argument("--rolling-s", type=float, default=120.0, help="how long the load of rolling lasts")
    parser.add_argument("--flips", type=int, default=20, help="of roles")
    parser.add_argument("--minutes", type=float, default=120.0, help="of soak")
    parser.add_argument("--seed", type=int, default=1, help="of its faults")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--json", type=Path, help="write what was found there, too")
    options = parser.parse_args()
    if not possible():
        print("this needs Linux, root and iproute2", file=sys.stderr)
        return 2
    print(json.dumps(machine()))
    found = {name: scenarios.ALL[name](options) for name in options.scenario}
    promises = [(name, *row) for name, rows in found.items() for row in rows]
    shown = [(name, what, came, "pass" if kept else "FAIL") for name, what, came, kept in promises]
    print(table(("scenario", "promise", "measured", ""), shown))
    if options.json:
        options.json.write_text(json.dumps(promises, indent=1))
    return int(not all(kept for *_, kept in promises))


if __name__ == "__main__":
    raise SystemExit(main())
