"""What the handoff adds to an answer, as a client sees it, and how much of the transfer is hidden.

    python benchmarks/handoff.py                         the demo model, prompts of 64, 512 and 2,048 tokens
    python benchmarks/handoff.py --requests 5 --prompts 64,512
    python benchmarks/handoff.py --serve "--transport tcp" --json handoff.json
    python benchmarks/handoff.py --url http://127.0.0.1:8000     a server that runs already

A streamed completion's first token comes from the prefill node, all others from the decode node. Between them
lies the handoff: what is left of the transfer, adoption, and one step of decoding. So

    overhead = TTST (first to second token) - ITL (median gap between the later tokens of the same answer)

on the client's clock; a colocated server has an overhead of about zero. `exposed` and `hidden` are the
server's own words (docs/api.md): transfer time on top of the prompt's computation, and beneath it. Requests
come one at a time and no two share a prefix. "4 streams" is the same while four other answers are being
decoded.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from measure import machine, percentile, progress, table

WORDS = [
    "river",
    "stone",
    "lamp",
    "window",
    "garden",
    "paper",
    "winter",
    "copper",
    "bridge",
    "cloud",
    "letter",
]
ANSWER = 16  # tokens
STREAMS = 4  # of background load
START_S = 180.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. Times in milliseconds."""

    ttft: float
    ttst: float
    itl: float
    exposed: float
    hidden: float
    bytes: int
    path: str  # "remote" or, if one node did both, "local"

    @property
    def overhead(self) -> float:
        return self.ttst - self.itl

    @property
    def hidden_share(self) -> float:
        return self.hidden / (self.hidden + self.exposed) if self.hidden + self.exposed else 0.0


class Client:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=600)
        self.model = self._http.get("/v1/models").json()["data"][0]["id"]

    def prompt(self, tokens: int, random_words: random.Random) -> list[int]:
        """A prompt of so many tokens that shares no prefix with any other."""
        text = f"{random_words.getrandbits(64):x} " + " ".join(random_words.choices(WORDS, k=tokens * 2))
        found = self._http.post("/tokenize", json={"model": self.model, "prompt": text}).json()["tokens"]
        assert len(found) >= tokens, (len(found), tokens)
        return list(found[:tokens])

    def stream(self, prompt: list[int], tokens: int) -> Iterator[tuple[float, dict[str, Any]]]:
        """Each event with the moment at which it came."""
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "timing": True,
        }
        with self._http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise SystemExit(f"the server answered {response.status_code}: {response.read().decode()}")
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield time.perf_counter(), json.loads(line[6:])

    def measure(self, prompt: list[int]) -> Answer | None:
        """None if some tokens came together, so that their gaps are not known."""
        began, moments, timing = time.perf_counter(), [], None
        for moment, event in self.stream(prompt, ANSWER):
            if "error" in event:
                raise SystemExit(f"the server failed: {event['error']}")
            timing = event.get("timing") or timing
            if any(choice["text"] for choice in event["choices"]):
                moments.append(moment)
        if timing is None:
            raise SystemExit("the server says nothing about its timing")
        if len(moments) != ANSWER:
            return None
        gaps = [(b - a) * 1000 for a, b in pairwise(moments)]
        transfer = timing["transfer_ms"] or {"exposed": 0.0, "hidden": 0.0}
        local = timing["prefill"]["pid"] == timing["decode"]["pid"]
        return Answer(
            (moments[0] - began) * 1000,
            gaps[0],
            median(gaps[1:]),
            transfer["exposed"] or 0.0,
            transfer["hidden"] or 0.0,
            timing["transfer_bytes"] or 0,
            "local" if local else "remote",
        )

    def close(self) -> None:
        self._http.close()


@contextmanager
def serving(options: str) -> Iterator[str]:
    """A `pagewire serve` of our own; yields its address."""
    flags = ["--disaggregate", "always", *shlex.split(options), "--port", "0"]
    command = [sys.executable, "-m", "pagewire.cli.main", "serve", *flags]
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield _address(child, Path(log.name))
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(30)


def _address(child: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if child.poll() is not None:
            raise SystemExit(f"pagewire serve ended:\n{log.read_text()}")
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            try:
                if httpx.get(f"{found[0]}/ready").status_code == 200:
                    return found[0]
            except httpx.TransportError:
                pass
        time.sleep(0.2)
    raise SystemExit(f"not ready within {START_S:.0f} s:\n{log.read_text()}")


@contextmanager
def load(url: str, streams: int) -> Iterator[None]:
    """So many long answers are being decoded until the block ends."""
    stop, clients = threading.Event(), [Client(url) for _ in range(streams)]

    def decode(client: Client, seed: int) -> None:
        words = random.Random(seed)
        while not stop.is_set():
            for _ in client.stream(client.prompt(32, words), 512):
                if stop.is_set():
                    break

    threads = [threading.Thread(target=decode, args=(c, 1000 + i)) for i, c in enumerate(clients)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2.0)  # they have their first tokens
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        for client in clients:
            client.close()


def measure(client: Client, tokens: int, requests: int, what: str, words: random.Random) -> list[Answer]:
    found: list[Answer] = []
    for i in range(2 * requests + 1):
        progress(f"{what}, prompts of {tokens} tokens: request {len(found)} of {requests}")
        answer = client.measure(client.prompt(tokens, words))
        if answer is not None and i > 0:  # the first one warms up
            found.append(answer)
        if len(found) == requests:
            break
    if not found:
        raise SystemExit("tokens never came one by one")
    return found


def row(what: str, tokens: int, found: list[Answer]) -> dict[str, Any]:
    def middle(name: str) -> dict[str, float]:
        values = [getattr(a, name) for a in found]
        return {"median": round(median(values), 3), "p95": round(percentile(values, 0.95), 3)}

    names = ("ttft", "ttst", "itl", "overhead", "exposed", "hidden", "hidden_share")
    return {
        "load": what,
        "prompt_tokens": tokens,
        "requests": len(found),
        "local": sum(a.path == "local" for a in found),
        "megabytes": round(median(a.bytes for a in found) / 1e6, 2),
        **{name: middle(name) for name in names},
    }


def show(rows: list[dict[str, Any]]) -> str:
    head = "load|prompt|requests|TTFT|ITL|TTST|overhead|exposed|hidden|share hidden|MB"
    lines = []
    for r in rows:
        both = [
            f"{r[n]['median']:.1f} / {r[n]['p95']:.1f}" for n in ("ttst", "overhead", "exposed", "hidden")
        ]
        share = f"{r['hidden_share']['median']:.0%}"
        first = [r["load"], str(r["prompt_tokens"]), str(r["requests"])]
        lines.append(
            [
                *first,
                f"{r['ttft']['median']:.0f}",
                f"{r['itl']['median']:.1f}",
                *both,
                share,
                f"{r['megabytes']:.1f}",
            ]
        )
    return "milliseconds, median / p95\n\n" + table(head.split("|"), lines)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--requests", type=int, default=20, help="measured requests of each row (20)")
    words.add_argument("--prompts", default="64,512,2048", help="tokens of the prompts")
    words.add_argument("--model", default="demo", help="as for pagewire serve (demo)")
    words.add_argument("--serve", default="", help='more words for pagewire serve, such as "--transport tcp"')
    words.add_argument("--url", help="measure a server that runs already")
    words.add_argument("--idle-only", action="store_true", help="leave the rows under load out")
    words.add_argument("--json", type=Path, help="write every number here")
    args = words.parse_args()
    rows, where, pick = [], machine(), random.Random(time.time_ns())
    with ExitStack() as stack:
        url = args.url or stack.enter_context(serving(f"{args.model} {args.serve}"))
        client = Client(url)
        for what in ("idle",) if args.idle_only else ("idle", f"{STREAMS} streams"):
            with ExitStack() as busy:
                if what != "idle":
                    busy.enter_context(load(url, STREAMS))
                for tokens in map(int, args.prompts.split(",")):
                    rows.append(row(what, tokens, measure(client, tokens, args.requests, what, pick)))
        client.close()
    progress("")
    print(f"{json.dumps(where)}\n\n{show(rows)}")
    if local := sum(r["local"] for r in rows):
        print(f"\n{local} requests were computed by one node alone: there was no handoff to measure")
    if args.json:
        args.json.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
