"""The client that all systems are measured with, against a server that says exactly what it is told to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import peer_loads
import peer_steps
from peer_client import Answer, Client, Events, PeerFailed
from peer_figures import Search, Slo
from peer_processes import PORT, Command, Others, output_of, serving, started, tree


def event(text: str, tokens: int | None = None) -> dict[str, Any]:
    usage = {} if tokens is None else {"usage": {"prompt_tokens": 3, "completion_tokens": tokens}}
    return {"choices": [{"text": text}]} | usage


def test_events_come_whole_from_any_pieces() -> None:
    wire = b': hello\n\ndata: {"a": 1}\r\n\r\ndata:{"a": 2}\n\ndata: [DONE]\n\n'
    for size in (1, 3, 7, len(wire)):
        events = Events()
        found = [e for i in range(0, len(wire), size) for e in events.feed(wire[i : i + size])]
        assert found == [{"a": 1}, {"a": 2}]
        assert events.done


def test_an_event_without_text_is_a_token_if_the_server_counts_it() -> None:
    counted, uncounted = Answer(0.0), Answer(0.0)
    for moment, (text, tokens) in enumerate([("", 0), ("", 1), ("ab", 3), ("", 3)]):
        counted.hear(event(text, tokens), float(moment))
        uncounted.hear(event(text), float(moment))
    assert (counted.moments, counted.counts) == ([1.0, 2.0], [1, 3])
    assert (uncounted.moments, uncounted.counts) == ([2.0], [1])


def test_llama_cpp_counts_in_its_own_words() -> None:
    found = Answer(0.0)
    found.hear(event("a") | {"timings": {"predicted_n": 2}}, 1.0)
    found.hear({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}, 2.0)
    assert (found.counts, found.prompt_tokens) == ([2], 9)


class Fake:
    """Answers every request with its tokens, one event each; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.short = False
        self.app = FastAPI()
        self.app.post("/v1/completions")(self.complete)

    async def complete(self, request: Request) -> Any:
        body = await request.json()
        self.asked.append(body)
        if len(body["prompt"]) == 7:
            return JSONResponse({"error": "no"}, 400)
        return StreamingResponse(self._stream(body), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        for number in range(body["max_tokens"] - self.short):
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": number + 1}
            yield f"data: {json.dumps({'choices': [{'text': 'x'}], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


@contextmanager
def running(fake: Fake) -> Iterator[str]:
    line = socket.socket()
    line.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(fake.app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [line]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{line.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        line.close()


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[Client]:
    with running(fake) as url:
        client = Client(url, "m")
        yield client
        await client.close()


@pytest.fixture
def fake() -> Fake:
    return Fake()


async def test_an_answer_of_exactly_what_was_asked_for(client: Client, fake: Fake) -> None:
    found = await client.complete([5, 6, 8], 4)
    assert (found.done, found.tokens, found.prompt_tokens, found.error) == (True, 4, 3, "")
    assert found.began <= found.moments[0] <= found.moments[-1]
    asked = fake.asked[0]
    assert (asked["prompt"], asked["temperature"], asked["ignore_eos"]) == ([5, 6, 8], 0, True)


async def test_a_first_server_reads_each_prompt_before(client: Client, fake: Fake) -> None:
    with running(first := Fake()) as url, running(fake) as second:
        apart = Client(second, "m", url)
        assert (await apart.complete([5, 6, 8], 4)).tokens == 4
        assert (await apart.complete([1] * 7, 4)).error.startswith("400")
        await apart.close()
    assert [(len(asked["prompt"]), asked["max_tokens"]) for asked in first.asked] == [(3, 1), (7, 1)]
    assert [asked["max_tokens"] for asked in fake.asked] == [4]


async def test_an_answer_that_is_short_or_refused_is_an_error(client: Client, fake: Fake) -> None:
    assert (await client.complete([1] * 7, 4)).error.startswith("400")
    fake.short = True
    assert (await client.complete([1], 4)).error == "3 tokens came, not 4"


async def test_a_server_that_answers_wrongly_fails_as_it_warms_up(client: Client, fake: Fake) -> None:
    fake.short = True
    with pytest.raises(PeerFailed, match="7 tokens came, not 8"):
        await peer_loads.warm_up(client, 1)


async def test_a_closed_loop_offers_every_prompt_once(client: Client, fake: Fake) -> None:
    said: list[str] = []
    found = await peer_loads.serve(client, 3, 7, 1, said.append)
    assert (found["failed"], found["other_prompts"], len(said)) == (0.0, 0.0, 7)
    assert found["tokens_per_s"] > 0
    prompts = [tuple(asked["prompt"]) for asked in fake.asked]
    assert (len(set(prompts)), {len(p) for p in prompts}) == (7, {256})


@pytest.mark.parametrize(("slo", "rate"), [(Slo(60.0, 60.0), 200.0), (Slo(0.0, 0.0), 0.0)])
async def test_the_largest_rate(client: Client, fake: Fake, slo: Slo, rate: float) -> None:
    found = await peer_loads.rate(client, Search(100.0, 200.0, 1.5), slo, 0.01, 3, 1, lambda _: None)
    assert found["requests_per_s"] == rate
    assert found["kept_at_100.000"] == (1.0 if rate else pytest.approx(0.0, abs=0.67))


# --- processes ----------------------------------------------------------------------------------------------

SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_server_is_ended_with_all_that_it_started(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(Command((sys.executable, "-c", SERVER, PORT), {"A_WORD": "x y"}), "/") as url:
        found = [process.pid for process in tree(os.getpid())][1:]
        assert url.startswith("http://127.0.0.1:")
        assert len(found) == 2
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in found)
    assert "+ 'A_WORD=x y' " in capfd.readouterr().err


def test_it_is_ended_when_the_block_fails_too() -> None:
    command = Command((sys.executable, "-c", SERVER, PORT))
    with pytest.raises(KeyboardInterrupt), serving(command, "/") as url:
        raise KeyboardInterrupt
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_what_fails_says_why() -> None:
    failing = Command((sys.executable, "-c", "import sys; print('too old', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(PeerFailed, match=r"ended with 3:\ntoo old"), serving(failing, "/"):
        pass
    with pytest.raises(PeerFailed, match="too old"):
        output_of(failing, 60.0)
    with pytest.raises(PeerFailed, match="still running"):
        output_of(Command((sys.executable, "-c", "import time; time.sleep(600)")), 0.5)


def test_work_of_a_tree_is_not_that_of_others() -> None:
    busy = "import sys, time\nwhile time.process_time() < 0.6: pass\nprint(flush=True); time.sleep(600)"
    with started(Command((sys.executable, "-c", busy)), subprocess.PIPE) as (child, _):
        foreign, own = Others(child.pid), Others(1 << 22)  # of no process
        assert child.stdout is not None
        child.stdout.readline()
        assert own.seconds() - foreign.seconds() == pytest.approx(0.6, abs=0.25)


# --- offline ------------------------------------------------------------------------------------------------


class Stepped:
    """An engine that takes one prompt a step, and writes one token a step to each."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.limits: list[int] = []
        self.started = self.cleared = 0

    def add(self, prompt: list[int], tokens: int) -> None:
        assert len(prompt) == 256
        self.counts.append(0)
        self.limits.append(tokens)

    def step(self) -> list[int]:
        self.started += 1
        for i in range(min(self.started, len(self.counts))):
            self.counts[i] += self.counts[i] < self.limits[i]
        return list(self.counts)

    def clear(self) -> None:
        self.counts, self.limits, self.started = [], [], 0
        self.cleared += 1


def test_an_engine_is_measured_in_all_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, clock = Stepped(), iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    found = peer_steps.rates(engine, 1)
    assert found == {"prefill": 2048.0, "decode": {"1": 32.0, "8": 256.0, "32": 1024.0}}
    assert engine.cleared == 5
