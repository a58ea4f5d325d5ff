"""What placement is worth: one trace replayed against a fresh `pagewire serve` for each way to place.

    python benchmarks/placement.py TRACE.jsonl
    python benchmarks/placement.py TRACE.jsonl --every 40 --seconds 20 --cases "round-robin|prefix"

TRACE is in Mooncake's format (see traces.py). Each --every-th conversation of it is taken, and its time is
stretched or squeezed into --seconds for each case. What is "cached" is what the servers say in ``usage``.
TTFT counts from the moment at which a request was due. "prefix, auto" is what `pagewire serve` does where
nothing is said; in the other rows all prompts go through prefill nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from measure import machine, percentile, progress, table
from peer_client import TIMEOUT_S, Events
from peer_processes import Command, Others, serving
from traces import Row, every, read, reusable

CASES = {
    "round-robin": ("round-robin", "always"),
    "load": ("load", "always"),
    "prefix": ("prefix", "always"),
    "prefix, auto": ("prefix", "auto"),
}
WARM = 3  # times two prompts before anything counts: nodes measure their own pace


@dataclass(slots=True)
class Heard:
    """One request. Seconds from when it was due."""

    prompt: int
    ttft: float | None = None
    end: float | None = None
    cached: int | None = None
    served_by: str = ""
    error: str = ""


class Replay:
    def __init__(self, url: str, rows: Sequence[Row], block: int, scale: float) -> None:
        self._rows, self._block, self._scale = rows, block, scale
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)

    async def run(self, what: str) -> list[Heard]:
        async with self._http:
            for number in range(WARM):  # side by side, so that all nodes have some
                both = [_warm(2 * number + i, self._block) for i in (0, 1)]
                await asyncio.gather(*(self._ask(row, time.perf_counter()) for row in both))
            begin = time.perf_counter() + 0.5
            first = self._rows[0].at
            asked = [
                asyncio.create_task(self._later(row, begin + (row.at - first) * self._scale))
                for row in self._rows
            ]
            while not all(task.done() for task in asked):
                ended = sum(task.done() for task in asked)
                bar = "#" * (30 * ended // len(asked))
                seconds = time.perf_counter() - begin
                progress(f"{what:12} [{bar:30}] {ended} of {len(asked)} ended, {seconds:.0f} s")
                await asyncio.sleep(0.5)
            progress("")
            return [task.result() for task in asked]

    async def _later(self, row: Row, due: float) -> Heard:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return await self._ask(row, due)

    async def _ask(self, row: Row, due: float) -> Heard:
        heard = Heard(row.input_length)
        body = {
            "model": "pagewire",
            "prompt": row.prompt(self._block),
            "max_tokens": row.output_length,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self._http.stream("POST", "/v1/completions", json=body) as reply:
                heard.served_by = reply.headers.get("x-pagewire-served-by", "")
                if reply.status_code != 200:
                    heard.error = (await reply.aread()).decode()[:300]
                    return heard
                events = Events()
                async for piece in reply.aiter_raw():
                    for event in events.feed(piece):
                        _hear(heard, event, time.perf_counter() - due)
            heard.end = time.perf_counter() - due
            if not events.done:
                heard.error = "the stream ended without [DONE]"
        except httpx.HTTPError as error:
            heard.error = f"{type(error).__name__}: {error}"
        return heard


def _warm(number: int, block: int) -> Row:
    """A prompt that shares nothing with any other."""
    return Row(0.0, 10 * block, 4, tuple(10**9 + 10 * number + i for i in range(10)))


def _hear(heard: Heard, event: dict[str, Any], moment: float) -> None:
    """Text may come after its token, where that is only a part of a character."""
    if "error" in event:
        heard.error = str(event["error"])
    if event.get("choices") and heard.ttft is None:
        heard.ttft = moment
    if usage := event.get("usage"):
        heard.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


@dataclass(frozen=True, slots=True)
class Result:
    """One case. ``alone`` requests went through no prefill node; ``others`` are cores that something else on
    this machine kept busy meanwhile."""

    case: str
    hit_rate: float
    mean: float
    p50: float
    p95: float
    e2e_mean: float
    alone: int
    readers: dict[str, int]
    errors: int
    others: float


def result(case: str, heard: list[Heard], others: float) -> Result:
    good = [each for each in heard if not each.error and each.ttft is not None and each.end is not None]
    if not good:
        raise SystemExit(f"{case}: nothing came back: {heard[0].error}")
    ttfts = [each.ttft for each in good if each.ttft is not None]
    pairs = [dict(part.split("=") for part in each.served_by.split("; ")) for each in good]
    return Result(
        case,
        sum(each.cached or 0 for each in good) / sum(each.prompt for each in good),
        sum(ttfts) / len(ttfts),
        percentile(ttfts, 0.5),
        percentile(ttfts, 0.95),
        sum(each.end for each in good if each.end is not None) / len(good),
        sum(pair["prefill"] == pair["decode"] for pair in pairs),
        dict(sorted(Counter(pair["prefill"] for pair in pairs).items())),
        len(heard) - len(good),
        others,
    )


def show(results: list[Result]) -> str:
    base = results[0]
    head = "placement|cached|mean TTFT|of the first row|p50|p95|p95 of it|mean end|alone|errors|others"
    lines = [
        [
            each.case,
            f"{each.hit_rate:.1%}",
            f"{each.mean:.2f} s",
            f"{each.mean / base.mean:.2f}",
            f"{each.p50:.2f} s",
            f"{each.p95:.2f} s",
            f"{each.p95 / base.p95:.2f}",
            f"{each.e2e_mean:.2f} s",
            str(each.alone),
            str(each.errors),
            f"{each.others:.2f}",
        ]
        for each in results
    ]
    return table(head.split("|"), lines)


def serve(model: str, case: str, more: str) -> Command:
    placement, disaggregate = CASES[case]
    words = [sys.executable, "-m", "pagewire.cli.main", "serve", model, "--port", "{port}"]
    words += ["--served-model-name", "pagewire", "--placement", placement, "--disaggregate", disaggregate]
    return Command((*words, *shlex.split(more)))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("trace", type=Path, help="a file in Mooncake's format")
    words.add_argument(
        "--block", type=int, default=32, help="tokens that one of its hash_ids stands for (32)"
    )
    words.add_argument("--every", type=int, default=12, help="take each so-manieth conversation (12)")
    words.add_argument("--seconds", type=float, default=115.0, help="into which its time is put (115)")
    words.add_argument("--cases", default="|".join(CASES), help="which, with | between them (all)")
    words.add_argument("--model", default="demo", help="as for pagewire serve (demo)")
    words.add_argument(
        "--serve",
        default="--prefill 2 --decode 2 --kv-cache-memory 512MiB",
        help="more words for pagewire serve",
    )
    words.add_argument("--json", type=Path, help="write every number here")
    args = words.parse_args()
    rows = every(read(args.trace), args.every)
    span = rows[-1].at - rows[0].at
    tokens, where = sum(row.input_length for row in rows), machine()
    about = (
        f"{len(rows)} requests, {tokens} tokens to read, {sum(row.output_length for row in rows)} to write; "
        f"{span:.0f} s of the trace in {args.seconds:.0f} s; one cache without end would find "
        f"{reusable(rows, args.block):.1%}"
    )
    print(f"{json.dumps(where)}\n{about}", flush=True)
    results, heard = [], {}
    for case in args.cases.split("|"):
        with serving(serve(args.model, case, args.serve), "/ready") as url:
            others = Others()
            replay = Replay(url, rows, args.block, args.seconds / span if span else 1.0)
            heard[case] = asyncio.run(replay.run(case))
            results.append(result(case, heard[case], others.cores()))
        print(f"{case}: mean TTFT {results[-1].mean:.2f} s, read by {results[-1].readers}", flush=True)
    print(f"\n{show(results)}\n\nothers: cores that something else on this machine kept busy")
    if args.json:
        told = {case: [asdict(each) for each in found] for case, found in heard.items()}
        cases = [asdict(each) for each in results]
        args.json.write_text(
            json.dumps({"machine": where, "about": about, "cases": cases, "requests": told}) + "\n"
        )


if __name__ == "__main__":
    main()
