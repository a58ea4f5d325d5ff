"""Ten times what the server can do, and what becomes of it: prints pass or fail for each promise.

    python benchmarks/overload.py                  a minute for each load; about eight minutes
    python benchmarks/overload.py --seconds 10     a look

A real server (router, one prefill node, one decode node, demo model) with three keys and a target for the
first token of --slo seconds. 80% of the requests have 48 tokens in and 16 out, 20% 256 in and 32 out; no two
share a prefix. A request is good if it is answered whole and its first token came within the target; it is
worth the time that one of its size takes when there are no others, so that goodput does not change with the
sizes of those who are refused. 1.0 is all that the server can do.

    worth     closed loop, 8 clients, one size at a time
    peak      closed loop, 2 to 32 clients: the best goodput
    before    half the peak, open loop
    open      ten times the peak, open loop (Poisson), whatever is refused; then half the peak again
    closed    ten times as many clients as at the peak; who is refused comes back after Retry-After
    greedy    one key offers ten times the peak, two half of it each: more than their third

The client runs in this process, on the same cores as the server: its share of a core and how late it sent are
printed, to show that it was not what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys

import peer_processes
from measure import machine, percentile, progress, table
from overload_client import Client
from overload_loads import MIX, Load, Loads

KEYS = ("sk-greedy", "sk-second", "sk-third")
CLIENTS = (2, 4, 8, 16, 32)
TIMES = 10
BACK_S = 5.0  # within which all is as before
Row = tuple[str, str, bool]


def flags() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=60.0, help="of each overload (default: %(default)s)")
    words.add_argument(
        "--slo", type=float, default=2.0, help="seconds to a first token (default: %(default)s)"
    )
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--pagewire-args", default="", help="more flags for pagewire serve")
    return words


def command(slo: float, more: str) -> peer_processes.Command:
    keys = [word for key in KEYS for word in ("--api-key", key)]
    words = [sys.executable, "-m", "pagewire.cli.main", "serve", "demo", "--port", peer_processes.PORT]
    return peer_processes.Command((*words, *keys, "--ttft-target", f"{slo:g}", *more.split()))


async def costs_of(loads: Loads, seconds: float) -> list[float]:
    """Seconds that a request of each size takes, of a server that does nothing else."""
    costs = []
    for number, kind in enumerate(MIX):
        progress(f"worth: {kind.prompt} tokens in, {kind.answer} out")
        load = await loads.closed(8, seconds, KEYS[0], number)
        costs.append(1 / load.goodput(math.inf))
    return costs


async def peak_of(loads: Loads, seconds: float, slo: float, costs: list[float]) -> tuple[Load, int]:
    """The load with the best goodput, and how many clients it had."""
    tried = []
    for clients in CLIENTS:
        progress(f"peak: {clients} clients")
        load = await loads.closed(clients, seconds, KEYS[0])
        print(f"  {clients:3} clients: {_line(load, slo, costs)}", flush=True)
        tried.append((load, clients))
    return max(tried, key=lambda one: one[0].goodput(slo, costs=costs))


def judge(name: str, load: Load, peak: float, slo: float, costs: list[float]) -> list[Row]:
    refused = [outcome.took * 1000 for outcome in load.refused]
    first = [outcome.ttft for outcome in load.admitted]
    share = load.goodput(slo, costs=costs) / peak
    p99 = percentile(refused, 0.99) if refused else math.nan
    ttft = percentile(first, 0.99) if first else math.inf
    return [
        (f"{name}: goodput at least 90% of the peak", f"{share:.0%}", share >= 0.9),
        (f"{name}: refused within 50 ms (p99)", f"{p99:.1f} ms of {len(refused)}", p99 < 50),
        (f"{name}: admitted, TTFT p99 within 1.5 of the target", f"{ttft:.2f} s", ttft <= 1.5 * slo),
        (f"{name}: answered whole, or refused with Retry-After", f"{len(load.broken)} not", not load.broken),
    ]


def back_again(before: Load, after: Load) -> Row:
    """From ``BACK_S`` after the end on, first tokens come as they did before."""
    since = min(outcome.due for outcome in after.outcomes) + BACK_S
    was = percentile([o.ttft for o in before.admitted], 0.99)
    now = percentile([o.ttft for o in after.admitted if o.due >= since] or [math.inf], 0.99)
    return (
        "open: normal again within 5 s (TTFT p99 as before)",
        f"{now:.2f} s, {was:.2f} before",
        now <= 1.5 * was,
    )


async def run(url: str, options: argparse.Namespace) -> list[Row]:
    slo, seconds = options.slo, options.seconds
    client = Client(url)
    loads, rows = Loads(client, options.seed), []
    await loads.closed(2, 3.0, KEYS[0])  # the first requests of a process are slower
    part = max(5.0, seconds / 4)
    costs = await costs_of(loads, part)
    best, clients = await peak_of(loads, part, slo, costs)
    worth, peak = best.goodput(slo, costs=costs), best.goodput(slo)
    print(f"worth: {' and '.join(f'{1000 * cost:.0f} ms' for cost in costs)}", flush=True)
    print(f"peak: {worth:.2f}, {peak:.2f} good requests/s with {clients} clients", flush=True)

    progress("half the peak")
    calm = max(15.0, seconds / 2)
    before = await loads.open({KEYS[0]: peak / 2}, calm)
    print(f"  before: {_line(before, slo, costs)}", flush=True)
    progress("open loop")
    load = await loads.open({KEYS[0]: TIMES * peak}, seconds)
    after = await loads.open({KEYS[0]: peak / 2}, calm)
    print(f"  open:   {_line(load, slo, costs)}\n  after:  {_line(after, slo, costs)}", flush=True)
    rows += [*judge("open", load, worth, slo, costs), back_again(before, after)]

    progress("closed loop")
    load = await loads.closed(TIMES * clients, seconds, KEYS[0])
    print(f"  closed: {_line(load, slo, costs)}", flush=True)
    rows += judge("closed", load, worth, slo, costs)

    progress("one greedy key")
    load = await loads.open({KEYS[0]: TIMES * peak, KEYS[1]: peak / 2, KEYS[2]: peak / 2}, seconds)
    print(f"  greedy: {_line(load, slo, costs)}", flush=True)
    for key in KEYS[1:]:
        share = load.goodput(slo, key, costs) / (worth / len(KEYS))
        rows.append((f"greedy: {key} keeps at least 90% of its third", f"{share:.0%}", share >= 0.9))
    client.close()
    return rows


def _line(load: Load, slo: float, costs: list[float]) -> str:
    late = f", sent {percentile(load.late, 0.99) * 1000:.0f} ms late (p99)" if load.late else ""
    first = sorted(o.ttft for o in load.admitted)
    ttft = (
        f"TTFT {percentile(first, 0.5):.2f} / {percentile(first, 0.99):.2f} s" if first else "none admitted"
    )
    good = f"{load.goodput(slo):6.2f}/s good ({load.goodput(slo, costs=costs):.2f})"
    return (
        f"{load.offered():7.2f}/s offered, {good}, {len(load.refused):5} refused, "
        f"{ttft} (p50 / p99), client {load.client_cpu:.0%} of a core{late}"
    )


def main() -> int:
    options = flags().parse_args()
    print(machine(), flush=True)
    with peer_processes.serving(command(options.slo, options.pagewire_args), "/ready") as url:
        rows = asyncio.run(run(url, options))
    progress("")
    print(table(["promise", "measured", ""], [(a, b, "pass" if ok else "FAIL") for a, b, ok in rows]))
    return 0 if all(ok for _, _, ok in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
