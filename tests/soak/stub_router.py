"""A router on stub nodes that write at a steady pace, as a process of its own. Prints where it serves."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "router"))

from conftest import World, running
from router_stubs import Cluster

from pagewire.hub import resolve
from pagewire.messages import PrefillRequest
from pagewire.text.tokenizer import load_tokenizer
from router.server import HttpServer, http_config, listen

LENGTH = 4000


class Steady(World):
    def script(self, request: PrefillRequest, choice: int) -> list[int]:
        return [self.answer[0]] * LENGTH


async def serve(tokens_a_second: float) -> None:
    async def pace(self: Cluster, at: int) -> None:
        await asyncio.sleep(1 / tokens_a_second)

    Cluster._hold = pace  # type: ignore[method-assign]
    world = Steady(load_tokenizer(resolve("demo")), max_inflight=1024)
    world.cluster.max_model_len = 1 << 16
    async with running(world, "prefill-0", "decode-0"):
        with contextlib.closing(listen("127.0.0.1", 0)) as listener:
            print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
            await HttpServer(http_config(world.service.options, world.app)).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
