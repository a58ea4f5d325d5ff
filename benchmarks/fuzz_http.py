"""Malformed requests against a running router, and what they did to it and to a client beside them.

    pagewire serve --max-model-len 64
    python -m benchmarks.fuzz_http http://127.0.0.1:8000 --count 10000

Some are good requests after all; a short context keeps those from being work that others have to wait for.
Passes if nothing is answered with a 5xx, no error shows anything of the inside, and a good request every
100 ms takes less than twice its 99th percentile of before. Knows sockets and replies; the requests are
``fuzz_by_hand``'s and ``fuzz_cases``'.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from benchmarks.fuzz_by_hand import Case, by_hand, get
from benchmarks.fuzz_cases import drawn, from_schema

PROBE_S = 0.1
QUIET_S = 0.2  # after which a request that does not end is left alone
LONGEST_S = 30.0
INSIDE = re.compile(
    rb"Traceback|site-packages|\.py\b|/root/|/home/|0x[0-9a-f]{8}|<class |object at |line \d+, in "
)
_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d)[^\r\n]*\r\n(.*?)\r\n\r\n", re.DOTALL)

Address = tuple[str, int]


@dataclass
class Verdict:
    """What came back, by status, and what must not have."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def judge(self, case: Case, answer: bytes) -> None:
        found = list(_STATUS.finditer(answer))
        for number, match in enumerate(found):
            status = int(match[1])
            end = found[number + 1].start() if number + 1 < len(found) else len(answer)
            body = answer[match.end() : end]
            self.statuses[status] += 1
            if status >= 500:
                self.faults.append(f"{case.name}: {status} {body[:200]!r}")
            if status >= 400 and not _is_error(body, case):
                self.faults.append(f"{case.name}: {status} in another shape: {body[:200]!r}")
            if status >= 400 and INSIDE.search(body):
                self.faults.append(f"{case.name}: shows our inside: {body[:300]!r}")
        if not found:
            self.statuses[0] += 1
            if case.whole:
                self.faults.append(f"{case.name}: no answer: {answer[:100]!r}")


def _is_error(body: bytes, case: Case) -> bool:
    if case.sent.startswith(b"HEAD ") and not body:
        return True
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return set(error) == {"message", "type", "param", "code"} and bool(error["message"])


def ask(address: Address, case: Case) -> bytes:
    """All that is answered until the server hangs up or has no more to say."""
    answer = bytearray()
    with socket.create_connection(address, timeout=LONGEST_S) as connection:
        with contextlib.suppress(OSError):  # it was refused in the middle, and perhaps told why
            connection.sendall(case.sent)
        connection.settimeout(LONGEST_S if case.whole else QUIET_S)
        with contextlib.suppress(OSError):
            while piece := connection.recv(1 << 16):
                answer += piece
    return bytes(answer)


class Probe(threading.Thread):
    """A good request every 100 ms. ``times`` are seconds, ``failed`` how others were answered."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.failed: list[str] = []
        self._url = url
        self._ended = threading.Event()

    def run(self) -> None:
        body = {"prompt": "The capital of France is", "max_tokens": 1, "temperature": 0}
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._ended.is_set():
                begun = time.monotonic()
                try:
                    reply = client.post("/v1/completions", json=body)
                    if reply.status_code != 200:
                        self.failed.append(f"{reply.status_code} {reply.text[:200]}")
                except httpx.TransportError as error:
                    self.failed.append(repr(error))
                self.times.append(time.monotonic() - begun)
                self._ended.wait(max(0.0, PROBE_S - self.times[-1]))

    def end(self) -> None:
        self._ended.set()
        self.join()

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self.times)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def cases(url: str, count: int, seed: int, *, schema: bool = True) -> Iterable[Case]:
    """``count`` of them: all by hand, a fifth from the API's page, the rest drawn."""
    rng, hand = random.Random(seed), by_hand()
    document = httpx.get(f"{url}/openapi.json").json() if schema else {}
    made = from_schema(document, count // 5, seed) if schema else []
    rest = (drawn(rng) for _ in itertools.count())
    return itertools.islice(itertools.chain(hand, made, rest), count)


def paced(chosen: Iterable[Case], rate: float) -> Iterator[Case]:
    """``chosen``, at most ``rate`` a second."""
    begun = time.monotonic()
    for number, case in enumerate(chosen):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        yield case


def attack(url: str, chosen: Iterable[Case], clients: int) -> Verdict:
    """Send all of ``chosen``, ``clients`` at a time."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    address, verdict = (parts.hostname, parts.port or 80), Verdict()
    with ThreadPoolExecutor(clients) as pool:
        for case, answer in pool.map(lambda case: (case, ask(address, case)), chosen):
            verdict.judge(case, answer)
    verdict.judge(Case("after all", get("/live")), ask(address, Case("after all", get("/live"))))
    return verdict


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("url")
    words.add_argument("--count", type=int, default=10_000)
    words.add_argument("--clients", type=int, default=4)
    words.add_argument("--rate", type=float, default=50.0, help="requests a second")
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--before", type=float, default=20.0, help="seconds that the good requests run alone")
    asked = words.parse_args()
    chosen = list(cases(asked.url, asked.count, asked.seed))
    alone, beside = Probe(asked.url), Probe(asked.url)
    alone.start()
    time.sleep(asked.before)
    alone.end()
    begun = time.monotonic()
    beside.start()
    verdict = attack(asked.url, paced(chosen, asked.rate), asked.clients)
    beside.end()
    took = time.monotonic() - begun
    for fault in [*verdict.faults[:20], *beside.failed[:20]]:
        print(fault)
    calm = beside.p99_ms < 2 * alone.p99_ms and not beside.failed
    passed = not verdict.faults and calm
    print(
        "answers:", ", ".join(f"{n} x {status or 'none'}" for status, n in sorted(verdict.statuses.items()))
    )
    print(
        f"F14: {len(chosen)} malformed requests in {took:.0f} s: {len(verdict.faults)} faults; "
        f"a good request every 100 ms, p99 {alone.p99_ms:.1f} ms alone, {beside.p99_ms:.1f} ms beside them "
        f"({len(beside.times)} of them, {len(beside.failed)} failed): {'pass' if passed else 'FAIL'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
