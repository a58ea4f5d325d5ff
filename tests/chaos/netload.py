"""Requests to a deployment whose network is hurt, and what is owed to each: its tokens, or an end by name.

Knows asks, outcomes and the row that they are counted in; knows no link and no fault.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

from manyhosts import ManyHosts
from report import Row
from streams import Ask, Outcome, oracle, stream

ENDS_S = 15.0  # longest silence that a client may bear before its request ends or goes on elsewhere
PATIENCE_S = 40.0  # of a client without a byte: longer than anything may take
DOCUMENTED = {"unavailable", "worker_lost", "request_failed", "deadline_exceeded"}
EVERY_S = 0.5  # between two requests that come while the wire is cut


def _ask(number: int, prompt: int, tokens: int) -> Ask:
    sampled = {"temperature": 0.8, "top_p": 0.95, "seed": number} if number % 2 else {"temperature": 0.0}
    start = 1000 + 7 * number
    params = {"max_tokens": tokens, "ignore_eos": True, "timing": True, **sampled}
    return Ask(list(range(start, start + prompt)), params)


LONG = [_ask(n, 40 + 30 * n, 120) for n in range(6)]  # in flight when the wire is cut
SHORT = [_ask(100 + n, 10 + 60 * (n % 8), 8 + n) for n in range(16)]  # that come one after the other


@dataclass(slots=True)
class Found:
    """How requests went, against the same requests without a fault."""

    expected: dict[int, Outcome]  # by id of the ask
    row: Row
    hurt: int = 0  # requests that were tried again or ended by name
    lock: threading.Lock = field(default_factory=threading.Lock)

    def judge(self, what: str, ask: Ask, out: Outcome, since: float, bound: float | None = ENDS_S) -> None:
        """Count ``out``, whose time runs from ``since`` at the earliest."""
        took = silence(out, since)
        wanted = self.expected[id(ask)]
        with self.lock:
            self.row.units += 1
            self.row.took(took)
            if out.equals(wanted):
                self.row.equal += 1
            elif out.code in DOCUMENTED and out.terminals == 1 and out.begins(wanted):
                self.row.named += 1
            else:
                end = f"{out.error or 'no error'} ({out.code}) with {out.count} of {wanted.count} tokens"
                self.row.problems.append(f"{what}: a request ended with {end}, {took:.1f} s after the cut")
            if bound is not None and took > bound:
                self.row.problems.append(f"{what}: a client heard nothing for {took:.1f} s")

    def problem(self, text: str) -> None:
        with self.lock:
            self.row.problems.append(text)

    def over(self, hosts: ManyHosts, note: str) -> None:
        """A run whose fault was seen has ended: nothing may be held, and nobody may have died."""
        try:
            hosts.until_nothing_is_held()
            held = {}
        except AssertionError:
            held = hosts.held()
        with self.lock:
            self.row.runs += 1
            self.row.verified += 1
            self.row.leaked += len(held)
            self.row.notes += [note] if note else []
            self.row.problems += [f"{note}: held {held}"] if held else []
            self.row.problems += hosts.deaths
            hosts.deaths.clear()


def silence(out: Outcome, since: float) -> float:
    """The longest time after ``since`` in which its client heard nothing: how long the fault held it up,
    however long its computation took.
    """
    heard = [max(out.started, since), *(at for at in out.times if at > since), out.ended]
    return max((later - earlier for earlier, later in pairwise(heard)), default=0.0)


def attempts(out: Outcome) -> int:
    return int((out.timing or {}).get("attempts", 1))


def expect(hosts: ManyHosts, row: Row, asks: Sequence[Ask]) -> Found:
    hosts.until(lambda: stream(hosts.url, asks[0]).error is None, 30)
    found = oracle(hosts.url, asks, threads=8)
    return Found({id(ask): out for ask, out in zip(asks, found, strict=True)}, row)


class Drip:
    """Short requests, one every ``EVERY_S``, until ``stop``."""

    def __init__(self, url: str) -> None:
        self.went: list[tuple[Ask, Future[Outcome]]] = []
        self._url = url
        self._pool = ThreadPoolExecutor(64)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> list[tuple[Ask, Outcome]]:
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()
        return [(ask, future.result()) for ask, future in self.went]

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(EVERY_S):
            ask = SHORT[number % len(SHORT)]
            self.went.append((ask, self._pool.submit(stream, self._url, ask, timeout=PATIENCE_S)))
            number += 1
