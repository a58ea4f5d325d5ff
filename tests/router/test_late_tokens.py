from __future__ import annotations

import asyncio

from conftest import World
from router_stubs import peer

from pagewire.messages import TokenItem, Tokens


async def counted(world: World) -> float:
    page = (await world.http.get("/metrics")).text
    found = [line for line in page.splitlines() if line.startswith("pagewire:late_tokens_total")]
    return float(found[0].split()[1])


async def test_tokens_for_a_client_that_has_gone_are_counted(world: World) -> None:
    world.cluster.hold_at = 2
    task = asyncio.create_task(world.chat())
    await world.until(lambda: world.cluster.requests())
    await world.until(lambda: not world.service.requests.ledger.prefilling)
    task.cancel()
    await world.until(lambda: world.service.inflight == 0)
    assert await counted(world) == 0
    request = world.cluster.requests()[0]
    items = [TokenItem(request.request, request.attempt, 0, index, 5) for index in (2, 3)]
    decode = peer("decode-0")
    world.cluster.say(decode, Tokens(decode.node, decode.epoch, items))
    for _ in range(20):
        await asyncio.sleep(0.01)
        if await counted(world) == 2:
            return
    raise AssertionError(await counted(world))
