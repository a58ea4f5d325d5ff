"""All that a stream of /v1/completions says, put together by choice: text, tokens, log-probabilities, ends.

Knows HTTP and server-sent events; knows no node and no fault. ``streams`` is for tokens alone.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 120.0


@dataclass(slots=True)
class Part:
    """One choice. Two are equal if a client cannot tell them apart."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[dict[str, float]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    finish: str | None = None
    stop: str | int | None = None


@dataclass(slots=True)
class Whole:
    """One reply. ``ended`` is in monotonic seconds and does not count when replies are compared."""

    parts: dict[int, Part] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    terminals: int = 0
    ended: float = field(default=0.0, compare=False)


def ask(url: str, body: dict[str, Any]) -> Whole:
    """Send ``body`` as a stream and read it to its end."""
    out, at = Whole(), urlsplit(url)
    usage = {"stream_options": {"include_usage": True}}
    sent = json.dumps({"return_token_ids": True, "stream": True, **usage, **body})
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/v1/completions", sent, {"content-type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            out.error = f"http {reply.status} {reply.read(300)!r}"
            return out
        for line in reply:
            if line.startswith(b"data: "):
                _take(out, line[6:].strip())
    except (OSError, http.client.HTTPException) as error:
        out.error = type(error).__name__
    finally:
        connection.close()
        out.ended = time.monotonic()
    return out


def ask_all(url: str, bodies: Iterable[dict[str, Any]], threads: int) -> list[Whole]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda body: ask(url, body), bodies))


def start(pool: ThreadPoolExecutor, url: str, bodies: Iterable[dict[str, Any]]) -> list[Future[Whole]]:
    return [pool.submit(ask, url, body) for body in bodies]


def _take(out: Whole, data: bytes) -> None:
    if data == b"[DONE]":
        out.terminals += 1
        return
    event = json.loads(data)
    if "error" in event:
        out.terminals += 1
        out.error = event["error"]["code"]
        return
    if usage := event.get("usage"):
        usage.pop("prompt_tokens_details")  # how much of the prompt was cached may differ
        out.usage = usage
    for choice in event["choices"]:
        part = out.parts.setdefault(choice["index"], Part())
        part.text += choice["text"]
        part.tokens += choice.get("token_ids") or []
        if scores := choice.get("logprobs"):
            part.logprobs += scores["token_logprobs"]
            part.top += scores["top_logprobs"] or []
            part.offsets += scores["text_offset"]
        part.finish = choice["finish_reason"] or part.finish
        part.stop = choice.get("stop_reason") or part.stop
