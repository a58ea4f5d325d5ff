"""What --autorole is worth: traffic that is all reading, then all writing, on four workers.

    python benchmarks/traffic_shift.py                  five minutes of each, for each of four cases
    python benchmarks/traffic_shift.py --seconds 60     a look

Cases are the fixed splits 1P+3D, 2P+2D and 3P+1D, and --autorole, from 1P+3D on. In the first half requests
have --long tokens in and 8 out, in the second 32 in and --answer out, Poisson at --reads and --writes a
second. A request meets its targets if its first token came within --ttft ms and the mean gap between its
tokens is at most --itl ms; attainment is the share of all that were due.

Each worker has one thread. The client runs in this process, on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import peer_processes
from measure import machine, percentile, progress, table
from overload_client import Client, Outcome, body
from peer_processes import Command

SHORT_ANSWER, SHORT_PROMPT = 8, 32
CASES = {"1P+3D": (1, 3), "2P+2D": (2, 2), "3P+1D": (3, 1), "autorole": (1, 3)}


@dataclass(frozen=True, slots=True)
class Kind:
    """One half of the traffic: tokens in and out, and requests a second."""

    name: str
    prompt: int
    answer: int
    rate: float


@dataclass(slots=True)
class Half:
    kind: Kind
    outcomes: list[Outcome]

    def met(self, ttft_s: float, itl_s: float) -> float:
        """The share that met both targets."""
        return sum(self._good(each, ttft_s, itl_s) for each in self.outcomes) / len(self.outcomes)

    def _good(self, each: Outcome, ttft_s: float, itl_s: float) -> bool:
        return each.good(ttft_s) and self.gap(each) <= itl_s

    def gap(self, each: Outcome) -> float:
        return (each.end - (each.first or 0.0)) / (self.kind.answer - 1)

    def told(self) -> list[str]:
        good = [each for each in self.outcomes if each.whole and each.first is not None]
        ttft = [each.ttft for each in good]
        gaps = [1000 * self.gap(each) for each in good]
        return [
            f"{percentile(ttft, 0.5):.2f} / {percentile(ttft, 0.95):.2f} s",
            f"{percentile(gaps, 0.5):.0f} / {percentile(gaps, 0.95):.0f} ms",
        ]


async def begun(
    client: Client, kind: Kind, seconds: float, dice: random.Random, what: str
) -> list[asyncio.Task[Outcome]]:
    """Open loop: what is due is sent, whatever has become of the others. Those that are left when the time is
    over stand before what comes next, as in life.
    """
    begin, due, tasks = time.perf_counter(), 0.0, []
    while (due := due + dice.expovariate(kind.rate)) < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        payload = body(kind.prompt, kind.answer, dice)
        tasks.append(asyncio.create_task(client.ask(payload, "sk", begin + due)))
        progress(f"{what}, {kind.name}: {due:.0f} s, {sum(not task.done() for task in tasks)} in hand")
    progress("")
    await asyncio.sleep(max(0.0, begin + seconds - time.perf_counter()))
    return tasks


async def replay(url: str, kinds: Sequence[Kind], seconds: float, what: str) -> list[Half]:
    client, dice = Client(url), random.Random(1)
    for kind in kinds:  # nodes measure their pace before anything counts
        await asyncio.gather(*(client.ask(body(kind.prompt, kind.answer, dice), "sk") for _ in range(8)))
    asked = [await begun(client, kind, seconds, dice, what) for kind in kinds]
    return [Half(kind, await asyncio.gather(*tasks)) for kind, tasks in zip(kinds, asked, strict=True)]


def command(case: str, options: argparse.Namespace) -> Command:
    prefill, decode = CASES[case]
    words = [sys.executable, "-m", "pagewire.cli.main", "serve", options.model, "--port", "{port}"]
    words += ["--prefill", str(prefill), "--decode", str(decode), "--threads-per-worker", "1"]
    words += ["--disaggregate", "always", "--slo", f"ttft:{options.ttft},itl:{options.itl}"]
    # Fixed splits have workers too, so that all cases differ in one thing.
    return Command((*words, *(["--autorole"] if case == "autorole" else ["--admin-port", "0"])))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    words = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    words.add_argument("--seconds", type=float, default=300.0, help="of each half (300)")
    words.add_argument("--model", default="demo")
    words.add_argument("--long", type=int, default=600, help="tokens of a prompt in the first half (600)")
    words.add_argument("--answer", type=int, default=160, help="tokens of an answer in the second half (160)")
    words.add_argument("--reads", type=float, default=1.2, help="requests a second in the first half (1.2)")
    words.add_argument("--writes", type=float, default=2.2, help="and in the second (2.2)")
    words.add_argument("--ttft", type=int, default=2000, help="target in ms (2000)")
    words.add_argument("--itl", type=int, default=40, help="target in ms (40)")
    words.add_argument("--cases", default="|".join(CASES), help=f"which ({'|'.join(CASES)})")
    options = words.parse_args()
    kinds = [
        Kind("reading", options.long, SHORT_ANSWER, options.reads),
        Kind("writing", SHORT_PROMPT, options.answer, options.writes),
    ]
    print(machine())
    rows, whole = [], {}
    for case in options.cases.split("|"):
        with peer_processes.serving(command(case, options), "/ready") as url:
            halves = asyncio.run(replay(url, kinds, options.seconds, case))
        shares = [each.met(options.ttft / 1000, options.itl / 1000) for each in halves]
        count = [len(each.outcomes) for each in halves]
        whole[case] = sum(s * c for s, c in zip(shares, count, strict=True)) / sum(count)
        told = [text for each in halves for text in each.told()]
        rows.append([case, *(f"{share:.1%}" for share in (*shares, whole[case])), *told])
        print(rows[-1], flush=True)
    head = ["case", "reading", "writing", "both"]
    for kind in kinds:
        head += [f"{kind.name}: TTFT p50 / p95", f"{kind.name}: gap p50 / p95"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
