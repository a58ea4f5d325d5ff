from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from router_stubs import Cluster

from pagewire.hub import resolve
from pagewire.messages import PrefillRequest
from pagewire.sampling import Grammar
from pagewire.text.output.dialect import Dialect, dialect_of
from pagewire.text.tokenizer import Tokenizer, load_tokenizer
from router.app import make
from router.front import ChecksGrammars, Front
from router.grammar_check import GrammarCheck
from router.keys import KeyRing
from router.options import RouterOptions
from router.service import Service

ANSWER = " Hello, wörld! This is a test."
KEY = "sk-right"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve("demo"))


class World:
    """A router on stub nodes, one of each kind, and a client of it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        dialect: Dialect | None = None,
        grammars: ChecksGrammars | None = None,
        **options: object,
    ) -> None:
        self.tokenizer = tokenizer
        self.answer = tokenizer.encode(ANSWER, add_special_tokens=False)
        self.cluster = Cluster(self.script, tokenizer.eos_id or 0)
        # Names say who comes first; and the nodes' word is taken, so that all requests are the test's.
        calm = {"placement": "load", "disaggregate": "always", "canary_s": 0.0}
        made = RouterOptions(model="demo", mailbox="inproc://x", **calm | options)  # type: ignore[arg-type]
        self.service = Service(self.cluster, made, tokenizer)
        dialect = dialect or dialect_of(tokenizer, made.tool_call_parser, made.reasoning_parser)
        self.front = Front(
            self.service, tokenizer, ("demo", "other"), 1, dialect, grammars or GrammarCheck("demo")
        )
        self.app = make(self.front, KeyRing(made.api_keys))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://test"
        )

    def say(self, text: str) -> None:
        """What the next choices answer."""
        self.answer = self.tokenizer.encode(text, add_special_tokens=False)

    def script(self, request: PrefillRequest, choice: int) -> list[int]:
        """Every choice says the same but for the last."""
        return self.answer if choice == 0 else [*self.answer, *self.answer]

    async def until(self, condition: object) -> None:
        """Let the loop turn until ``condition()``."""
        assert callable(condition)
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def post(self, path: str, **body: object) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def chat(self, text: str = "Hi there", **body: object) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        return await self.post("/v1/chat/completions", model="demo", messages=messages, **body)

    async def complete(self, prompt: object = "Once upon a time", **body: object) -> httpx.Response:
        return await self.post("/v1/completions", model="demo", prompt=prompt, **body)


class Checked:
    """Grammars that were asked about; all can be held to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Grammar, str]] = []

    async def check(self, grammar: Grammar, param: str) -> None:
        self.asked.append((grammar, param))

    def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def running(world: World, *nodes: str) -> AsyncIterator[World]:
    task = asyncio.create_task(world.service.run())
    for node in nodes:
        world.cluster.join(node)
    await world.until(lambda: len(world.service.fleet.nodes) == len(nodes))
    try:
        yield world
    finally:
        await world.http.aclose()
        world.front.grammars.close()
        world.cluster.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def world(tokenizer: Tokenizer) -> AsyncIterator[World]:
    async with running(World(tokenizer), "prefill-0", "decode-0") as made:
        yield made


@pytest.fixture
async def empty(tokenizer: Tokenizer) -> AsyncIterator[World]:
    """A router without nodes."""
    async with running(World(tokenizer)) as made:
        yield made


@pytest.fixture
async def locked(tokenizer: Tokenizer) -> AsyncIterator[World]:
    """A router that wants a key."""
    async with running(World(tokenizer, api_keys=("sk-other", KEY)), "prefill-0", "decode-0") as made:
        yield made


@pytest.fixture
async def crowd(tokenizer: Tokenizer) -> AsyncIterator[World]:
    """Two nodes of each kind, and little patience."""
    names = ("prefill-0", "prefill-1", "decode-0", "decode-1")
    async with running(World(tokenizer, recovery_s=0.3, lost_after_s=0.8, max_inflight=4), *names) as made:
        yield made
