"""A streaming client of /v1/completions that keeps when each token came, whichever server answers.

Knows server-sent events and clocks; knows no server by name and does no statistics. Prompts are token ids, so
every system reads the same ones. A server that says how many tokens it has sent so far (vLLM and pagewire in
``usage``, llama.cpp in ``timings``) is believed; else an event with text is one token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

TIMEOUT_S = 600.0


class PeerFailed(Exception):
    """A system does not start, or does not answer as it should: it is left out, and the others go on."""


@dataclass(slots=True)
class Answer:
    """One request. Moments are seconds of ``time.perf_counter``; ``began`` is when it was due."""

    began: float
    moments: list[float] = field(default_factory=list)  # of the events that brought tokens
    counts: list[int] = field(default_factory=list)  # tokens that had come by then
    prompt_tokens: int | None = None  # as the server counted them
    error: str = ""
    done: bool = False

    @property
    def tokens(self) -> int:
        return self.counts[-1] if self.counts else 0

    @property
    def ttft(self) -> float | None:
        return self.moments[0] - self.began if self.moments else None

    @property
    def tpot(self) -> float | None:
        """Seconds a token after the first event, whose own tokens are not counted."""
        later = self.tokens - self.counts[0] if self.counts else 0
        return (self.moments[-1] - self.moments[0]) / later if later else None

    def gaps(self) -> list[float]:
        return [b - a for a, b in pairwise(self.moments)]

    def hear(self, event: dict[str, Any], moment: float) -> None:
        if "error" in event:
            self.error = str(event["error"])
            return
        usage = event.get("usage") or {}
        self.prompt_tokens = usage.get("prompt_tokens", self.prompt_tokens)
        if (come := _tokens(event, self.tokens)) > self.tokens:
            self.moments.append(moment)
            self.counts.append(come)


def _tokens(event: dict[str, Any], before: int) -> int:
    """How many tokens have come with this event."""
    said = (event.get("usage") or {}).get("completion_tokens")
    said = (event.get("timings") or {}).get("predicted_n") if said is None else said
    if not event.get("choices"):
        return before  # the closing event with the usage brings none
    if said is not None:
        return max(int(said), before)
    return before + any(choice.get("text") for choice in event["choices"])


class Events:
    """Bytes in any pieces -> the data of whole events, ``[DONE]`` left out."""

    def __init__(self) -> None:
        self._rest = b""
        self.done = False

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                self.done = True
            elif data:
                yield json.loads(data)


class Client:
    """``model`` is what the server calls what it serves. Close it when done.

    ``first`` is a server that is to read each prompt before, and leaves its KV where the other finds it.
    """

    def __init__(self, url: str, model: str, first: str | None = None) -> None:
        self.model, self._first = model, first
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)

    async def complete(
        self, prompt: list[int], tokens: int, due: float | None = None, into: list[Answer] | None = None
    ) -> Answer:
        """Stream one greedy answer of exactly so many tokens. An error of the server or of the line is in the
        answer. ``into`` has the answer from the start, for those who look before the end.
        """
        answer = Answer(time.perf_counter() if due is None else due)
        if into is not None:
            into.append(answer)
        try:
            await self._stream(prompt, tokens, answer)
        except httpx.HTTPError as error:
            answer.error = f"{type(error).__name__}: {error}"
        if not answer.error and answer.tokens != tokens:
            answer.error = f"{answer.tokens} tokens came, not {tokens}"
        answer.done = not answer.error
        return answer

    async def _stream(self, prompt: list[int], tokens: int, answer: Answer) -> None:
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "timings_per_token": True,
        }
        if self._first:
            read = await self._http.post(
                f"{self._first}/v1/completions",
                json=body | {"max_tokens": 1, "stream": False, "stream_options": None},
            )
            if read.status_code != 200:
                answer.error = f"{read.status_code}: {read.text[:300]}"
                return
        events = Events()
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                answer.error = f"{response.status_code}: {(await response.aread()).decode()[:300]}"
                return
            async for piece in response.aiter_raw():
                moment = time.perf_counter()
                for event in events.feed(piece):
                    answer.hear(event, moment)
        if not events.done and not answer.error:
            answer.error = "the stream ended without [DONE]"

    async def close(self) -> None:
        await self._http.aclose()
