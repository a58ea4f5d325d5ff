"""Nodes that compute nothing and clients that only count: the load on a router that is measured by itself.

All on one event loop in one process, so that both ends of a token's way are on one clock. A prefill stub
says a request's first token as soon as it is asked; a decode stub says one more token of each of its requests
every ``step`` seconds, in one message, as a decode node does. Knows messages, sockets and server-sent events;
knows nothing of the router but its addresses.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import urlsplit

import zmq

from pagewire import timeline
from pagewire.layout import KVLayout
from pagewire.mailbox import SPEAKS, NodeMailbox
from pagewire.messages import (
    DECODE,
    PREFILL,
    Cancel,
    Epoch,
    Hello,
    Load,
    NodeId,
    PrefillRequest,
    RequestId,
    Spans,
    TokenItem,
    Tokens,
)

WARM_S = 1.0
LIKELY = [(token, -1.0 - token) for token in range(20)]
PAGES, PAGE_SIZE, MODEL_LEN = 1 << 20, 16, 8192
LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=64, dtype="bfloat16", model="stub")


@dataclass(slots=True, eq=False)
class Said:
    """What was said to one stream: when each of its tokens was handed to the mailbox."""

    at: list[float] = field(default_factory=list)


class SaysTokens(Protocol):
    """Stubs, as far as clients are concerned. ``said`` is by the last token of a stream's prompt."""

    step_s: float
    said: dict[int, Said]


@dataclass(slots=True)
class _Running:
    router: NodeId
    request: PrefillRequest
    said: Said
    index: int = 1


class Nodes:
    """One prefill stub and ``count`` decode stubs. ``word`` is the token that they say."""

    def __init__(self, mailbox: str, count: int, word: int, step_s: float) -> None:
        self.step_s = step_s
        self.said: dict[int, Said] = {}  # by the stream's number, which is its prompt's last token
        self._word = word
        self._prefill = _Stub("prefill-0", PREFILL, mailbox)
        self._decodes = {f"decode-{n}": _Stub(f"decode-{n}", DECODE, mailbox) for n in range(count)}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        for stub in (self._prefill, *self._decodes.values()):
            loop.add_reader(stub.mailbox.socket.fileno(), self._hear, stub)
            self._hear(stub)
        stubs = list(self._decodes.values())
        self._tasks = [asyncio.create_task(self._steps(stub, n / len(stubs))) for n, stub in enumerate(stubs)]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for stub in (self._prefill, *self._decodes.values()):
            asyncio.get_running_loop().remove_reader(stub.mailbox.socket.fileno())
            stub.mailbox.close()

    def _hear(self, stub: _Stub) -> None:
        # A ZeroMQ descriptor tells only of changes: it is armed again by asking what there is.
        while stub.mailbox.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            for router, message in stub.mailbox.drain():
                if isinstance(message, PrefillRequest):
                    self._take(router, message)
                elif isinstance(message, Cancel):
                    stub.running.pop(message.request, None)

    def _take(self, router: NodeId, request: PrefillRequest) -> None:
        said = self.said.setdefault(request.tokens[-1], Said())
        first = self._item(request, 0)
        spans = _spans(request, self._prefill.hello, {timeline.CACHED_TOKENS: 0})
        said.at.append(time.perf_counter())
        self._prefill.say(router, [first], [spans])
        if not first.finish:
            stub = self._decodes[request.decode.node]
            stub.running[request.request] = _Running(router, request, said)

    async def _steps(self, stub: _Stub, phase: float) -> None:
        due = time.perf_counter() + phase * self.step_s
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due = max(due + self.step_s, time.perf_counter() - self.step_s)
            self._hear(stub)
            self._step(stub)

    def _step(self, stub: _Stub) -> None:
        if not stub.running:
            return
        items, now = [], time.perf_counter()
        router = next(iter(stub.running.values())).router
        for name, running in list(stub.running.items()):
            item = self._item(running.request, running.index)
            items.append(item)
            running.said.at.append(now)
            running.index += 1
            if item.finish:
                del stub.running[name]
        stub.say(router, items, [])

    def _item(self, request: PrefillRequest, index: int) -> TokenItem:
        assert request.sampling.max_tokens is not None
        finish = "length" if index + 1 >= request.sampling.max_tokens else ""
        item = TokenItem(request.request, request.attempt, 0, index, self._word, finish=finish)
        if request.sampling.logprobs:
            item = replace(item, logprob=-1.0, top=LIKELY[: request.sampling.logprobs])
        return item


class _Stub:
    def __init__(self, name: str, role: str, mailbox: str) -> None:
        address = f"shm://{name}" if role == DECODE else ""
        self.hello = Hello(
            node=NodeId(name),
            epoch=Epoch("1"),
            role=role,
            version=SPEAKS,
            pid=1,
            layout=LAYOUT,
            address=address,
            served_model="stub",
            max_model_len=MODEL_LEN,
            num_pages=PAGES,
            page_size=PAGE_SIZE,
            max_batch_tokens=1 << 20,
            max_num_seqs=1 << 16,
            prefix_caching=False,
        )
        self.mailbox = NodeMailbox(self.hello, [mailbox])
        self.mailbox.report(Load(pages_free=PAGES, pages_total=PAGES))
        self.running: dict[RequestId, _Running] = {}

    def say(self, router: NodeId, items: list[TokenItem], spans: list[Spans]) -> None:
        self.mailbox.send(router, Tokens(self.hello.node, self.hello.epoch, items, spans))


def _spans(request: PrefillRequest, hello: Hello, counts: dict[str, int]) -> Spans:
    return Spans(request.request, request.attempt, hello.node, hello.role, hello.pid, {}, counts)


# --- clients ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Run:
    """What the clients saw of one load, in a window of ``seconds`` in which all streams ran. ``late`` and
    ``first`` are seconds from a token's being said to its being read, of tokens after the first and of first
    tokens, the latter from the request's being sent."""

    streams: int
    asked: float  # tokens a second
    seconds: float = 0.0
    tokens: int = 0
    failed: int = 0
    cpu_s: float = 0.0  # of the router, in the window
    late: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


class Clients:
    """``streams`` connections, each with one streamed request at a time, begun anew when it ends."""

    def __init__(self, url: str, nodes: SaysTokens, run: Run, text: bytes, numbers: Iterator[int]) -> None:
        self.run, self.text, self.nodes = run, text, nodes
        self.counting = False
        self.closing = False
        self._url = url
        self._numbers = numbers
        self._open: list[_Client] = []

    async def start(self, tokens: int) -> None:
        """All streams, spread over a second; their lengths differ, so that they do not end together."""
        host, port = urlsplit(self._url).hostname, urlsplit(self._url).port
        loop = asyncio.get_running_loop()
        for n in range(self.run.streams):
            first = tokens * (n + 1) // self.run.streams + 16
            _, client = await loop.create_connection(lambda n=first: _Client(self, n, tokens), host, port)
            self._open.append(client)
            await asyncio.sleep(1.0 / self.run.streams)

    def close(self) -> None:
        self.closing = True
        for client in self._open:
            client.hang_up()

    def request(self, tokens: int) -> tuple[bytes, int]:
        number = next(self._numbers)
        body = json.dumps(
            {"prompt": [*range(100, 100 + 31), number], "max_tokens": tokens, "stream": True}
        ).encode()
        head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body, number


class _Client(asyncio.Protocol):
    def __init__(self, clients: Clients, first: int, tokens: int) -> None:
        self._clients, self._tokens = clients, tokens
        self._length = first
        self._seen = 0
        self._said: Said | None = None
        self._transport: asyncio.Transport | None = None
        self._number, self._asked = -1, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ask(self._length)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._clients.closing:
            self._clients.run.failed += 1

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _ask(self, tokens: int) -> None:
        assert self._transport is not None
        data, self._number = self._clients.request(tokens)
        self._seen, self._asked = 0, time.perf_counter()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        now, new = time.perf_counter(), data.count(self._clients.text)
        if new:
            self._count(now, new)
        if b"data: [DONE]" in data and not self._clients.closing:
            self._clients.nodes.said.pop(self._number, None)
            self._ask(self._tokens)
        elif b'{"error":' in data:
            self._clients.run.failed += 1

    def _count(self, now: float, new: int) -> None:
        run, clients = self._clients.run, self._clients
        if clients.counting:
            said = clients.nodes.said[self._number].at
            for index in range(self._seen, self._seen + new):
                if index == 0:
                    run.first.append(now - self._asked)
                else:
                    run.late.append(now - said[index])
            run.tokens += new
        self._seen += new


# --- one load -----------------------------------------------------------------------------------------------


@contextmanager
def stub_nodes(mailbox: str, count: int, word: int) -> Iterator[Nodes]:
    nodes = Nodes(mailbox, count, word, step_s=0.025)
    nodes.start()
    try:
        yield nodes
    finally:
        nodes.close()


_numbers = itertools.count(1000)


async def load(
    url: str, nodes: SaysTokens, streams: int, text: bytes, cpu_s: Callable[[], float], *, window_s: float
) -> Run:
    """Run ``streams`` streams, and count for ``window_s`` once all of them run. ``cpu_s`` is what the router
    has had."""
    run = Run(streams, streams / nodes.step_s)
    numbers = (n % 40_000 + 1000 for n in _numbers)
    clients = Clients(url, nodes, run, text, numbers)
    await clients.start(max(64, int(3.0 / nodes.step_s)))
    await asyncio.sleep(WARM_S)
    clients.counting, began, before = True, time.perf_counter(), cpu_s()
    await asyncio.sleep(window_s)
    clients.counting, run.seconds, run.cpu_s = False, time.perf_counter() - began, cpu_s() - before
    clients.close()
    await asyncio.sleep(0.3)
    return run
