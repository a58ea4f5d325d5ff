"""Some hundred malformed requests over real sockets to a router on stub nodes; all ten thousand are
``python -m benchmarks.fuzz_http``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest
from conftest import World, running

from benchmarks.fuzz_http import attack, cases
from pagewire.text.tokenizer import Tokenizer
from router.server import HttpServer, http_config, listen


class Background(threading.Thread):
    """A router on stub nodes that serves at ``url``, in a loop of its own."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.url = ""
        self.up, self._tokenizer = threading.Event(), tokenizer
        self._end: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        world, end = World(self._tokenizer), asyncio.Event()
        self._end = asyncio.get_running_loop(), end
        async with running(world, "prefill-0", "decode-0"):
            with contextlib.closing(listen("127.0.0.1", 0)) as listener:
                server = HttpServer(http_config(world.service.options, world.app))
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                self.up.set()
                await end.wait()
                server.end()
                await serving

    def end(self) -> None:
        assert self._end is not None
        loop, event = self._end
        loop.call_soon_threadsafe(event.set)
        self.join()


@pytest.fixture(scope="module")
def url(tokenizer: Tokenizer) -> Iterator[str]:
    server = Background(tokenizer)
    server.start()
    assert server.up.wait(30)
    yield server.url
    server.end()


@pytest.mark.filterwarnings("ignore")  # schemathesis' and hypothesis' own
def test_what_nobody_should_send_is_refused_and_told_why(url: str) -> None:
    verdict = attack(url, cases(url, 600, seed=1), clients=8)
    assert not verdict.faults, "\n".join(verdict.faults[:20])
    assert verdict.statuses[400] > 100
    assert verdict.statuses[413] >= 1
