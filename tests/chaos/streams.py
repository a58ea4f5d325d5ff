"""Streams of /v1/completions as a client sees them: token ids by choice, how each ended, and when.

Knows HTTP and server-sent events, over sockets of its own; knows no process, node or fault. Each stream uses
one connection and closes it, so that nothing is left open in the router.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 60.0  # without a byte: the stream hangs


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``params`` are fields of the body; give a ``seed``, so that sampled tokens compare."""

    prompt: list[int]
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """How one stream went. Times are monotonic seconds; ``first`` and ``ended`` are 0.0 until they come."""

    tokens: dict[int, list[int]] = field(default_factory=dict)  # by choice
    finish: dict[int, str] = field(default_factory=dict)  # by choice
    error: str | None = None  # "http NNN", "connection", "timeout", or the code of an error event
    code: str | None = None  # the code in the error's body, of whichever kind
    retry_after: str | None = None
    terminals: int = 0  # [DONE] and error events: exactly one in a stream that was not cut off
    left: bool = False  # we hung up
    started: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    times: list[float] = field(default_factory=list)  # of each event with tokens
    timing: dict[str, Any] | None = None  # where ``timing`` was asked for

    @property
    def count(self) -> int:
        """Tokens of all choices."""
        return sum(map(len, self.tokens.values()))

    @property
    def done(self) -> bool:
        return self.ended > 0.0

    def node(self, role: str) -> str | None:
        """The prefill or decode node that the reply names, if it does."""
        return ((self.timing or {}).get(role) or {}).get("node")

    def equals(self, other: Outcome) -> bool:
        """Ended without error, once, with the same tokens in each choice."""
        once = self.error is None and self.terminals == 1
        return once and self.tokens == other.tokens and self.finish == other.finish

    def begins(self, other: Outcome) -> bool:
        """What came is the beginning of what came in ``other``."""
        return all(
            tokens == other.tokens.get(choice, [])[: len(tokens)] for choice, tokens in self.tokens.items()
        )


def stream(
    url: str,
    ask: Ask,
    outcome: Outcome | None = None,
    on_token: Callable[[Outcome], object] | None = None,
    timeout: float = PATIENCE_S,
) -> Outcome:
    """Ask, and read to the end. ``outcome`` fills up as tokens come, for others to watch.

    ``on_token`` is called after each event with tokens, on this thread; if it returns True, we hang up.
    """
    out = outcome if outcome is not None else Outcome()
    out.started = time.monotonic()
    at = urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=timeout)
    try:
        connection.request("POST", "/v1/completions", _body(ask), {"content-type": "application/json"})
        _read(connection.getresponse(), out, on_token)
    except TimeoutError:
        out.error = out.error or "timeout"
    except (OSError, http.client.HTTPException):
        out.error = out.error or "connection"
    finally:
        connection.close()
        out.ended = time.monotonic()
    return out


def _body(ask: Ask) -> str:
    return json.dumps({"return_token_ids": True, **ask.params, "prompt": ask.prompt, "stream": True})


def _read(
    reply: http.client.HTTPResponse, out: Outcome, on_token: Callable[[Outcome], object] | None
) -> None:
    with reply:
        if reply.status != 200:
            out.error, out.retry_after = f"http {reply.status}", reply.headers.get("retry-after")
            out.code = json.loads(reply.read())["error"]["code"]
            out.terminals += 1
            return
        for line in reply:
            if line.startswith(b"data: ") and _event(line[6:].strip(), out) and on_token is not None:
                out.left = on_token(out) is True
                if out.left:
                    return
    if not out.terminals:
        out.error = "connection"


def _event(data: bytes, out: Outcome) -> bool:
    """Take one event in. True if it has tokens."""
    if data == b"[DONE]":
        out.terminals += 1
        return False
    event = json.loads(data)
    if "error" in event:
        out.terminals += 1
        out.error = out.code = event["error"]["code"]
        return False
    out.timing = event.get("timing") or out.timing
    before = out.count
    for choice in event["choices"]:
        out.tokens.setdefault(choice["index"], []).extend(choice.get("token_ids") or [])
        if choice["finish_reason"]:
            out.finish[choice["index"]] = choice["finish_reason"]
    if out.count == before:
        return False
    out.times.append(time.monotonic())
    out.first = out.first or out.times[0]
    return True


class Flight:
    """Streams under way, a thread each. ``outcomes`` can be looked at meanwhile, in the order of ``asks``."""

    def __init__(self, url: str, asks: Sequence[Ask], timeout: float = PATIENCE_S) -> None:
        self.outcomes = [Outcome() for _ in asks]
        self._news = threading.Condition()
        self._pool = ThreadPoolExecutor(max(1, len(asks)))
        self._futures: list[Future[Outcome]] = [
            self._pool.submit(stream, url, ask, outcome, self._tell, timeout)
            for ask, outcome in zip(asks, self.outcomes, strict=True)
        ]
        for future in self._futures:
            future.add_done_callback(lambda _: self._tell(None))

    def until(self, probe: Callable[[list[Outcome]], bool], seconds: float) -> bool:
        """Wait until ``probe`` holds, looking after each event. False if it did not within ``seconds``."""
        with self._news:
            return self._news.wait_for(lambda: probe(self.outcomes), seconds)

    def under_way(self) -> int:
        return sum(not future.done() for future in self._futures)

    def land(self, seconds: float = 300.0) -> list[Outcome]:
        """Wait for all. Raises TimeoutError if some do not end in time, AssertionError what went wrong."""
        _, late = wait(self._futures, seconds)
        self._pool.shutdown(wait=not late, cancel_futures=True)
        if late:
            raise TimeoutError(f"{len(late)} streams have not ended after {seconds:g} s")
        return [future.result() for future in self._futures]

    def _tell(self, _: Outcome | None) -> None:
        with self._news:
            self._news.notify_all()


def run_all(url: str, asks: Iterable[Ask], threads: int, timeout: float = PATIENCE_S) -> list[Outcome]:
    """Each ask to its outcome, at most ``threads`` at a time."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda ask: stream(url, ask, timeout=timeout), asks))


def oracle(url: str, asks: Sequence[Ask], threads: int = 16) -> list[Outcome]:
    """What ``asks`` give with no fault. Raises AssertionError if one of them fails."""
    found = run_all(url, asks, threads)
    bad = [out.error for out in found if out.error is not None or out.terminals != 1]
    assert not bad, f"without any fault: {bad}"
    return found
