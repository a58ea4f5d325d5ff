from __future__ import annotations

import asyncio
from typing import Any

from conftest import ANSWER, World
from router_stubs import failed, peer

from pagewire.messages import Beat, Epoch, NodeId, Welcome
from router.feed import MAX_UNREAD_EVENTS
from router.ledger import Ledger


def idle(world: World) -> bool:
    """Nothing is in hand, and nothing is charged to a node."""
    return world.service.inflight == 0 and world.service.requests.ledger == Ledger()


async def begun(world: World, **body: object) -> asyncio.Task[Any]:
    """A chat of which the first two tokens have come."""
    world.cluster.hold_at = 2
    task = asyncio.create_task(world.chat(**body))
    await world.until(lambda: world.cluster.requests())
    await world.until(lambda: not world.service.requests.ledger.prefilling)
    return task


async def test_decode_dies_in_the_middle_and_the_answer_is_whole(crowd: World) -> None:
    task = await begun(crowd)
    crowd.cluster.kill("decode-0")
    crowd.cluster.release()
    reply = (await task).json()
    assert reply["choices"][0]["message"]["content"] == ANSWER
    first, second = crowd.cluster.requests()
    assert second.tokens == first.tokens + crowd.answer[:2]
    assert (second.attempt, second.decode.node) == (1, "decode-1")
    assert reply["usage"]["prompt_tokens"] == len(first.tokens)


async def test_a_restarted_node_is_noticed_at_once(crowd: World) -> None:
    task = await begun(crowd)
    crowd.cluster.kill("decode-0")
    crowd.cluster.join("decode-0", "e2")
    await crowd.until(lambda: len(crowd.cluster.requests()) == 2)
    crowd.cluster.release()
    assert (await task).status_code == 200


async def test_each_of_n_choices_goes_on_where_it_was(crowd: World) -> None:
    task = await begun(crowd, n=2)
    crowd.cluster.kill("decode-0")
    crowd.cluster.release()
    reply = (await task).json()
    assert [c["message"]["content"] for c in reply["choices"]] == [ANSWER, ANSWER + ANSWER]
    assert [request.choices for request in crowd.cluster.requests()] == [[0, 1], [0], [1]]


async def test_prefill_dies_before_the_first_token(crowd: World) -> None:
    crowd.cluster.hold_at = 0
    task = asyncio.create_task(crowd.chat(timing=True))
    await crowd.until(lambda: crowd.cluster.requests())
    crowd.cluster.kill("prefill-0")
    crowd.cluster.release()
    timing = (await task).json()["timing"]
    assert (timing["attempts"], timing["prefill"]["node"]) == (2, "prefill-1")
    assert ("decode-0", 0) in crowd.cluster.cancelled()


async def test_a_failure_of_a_node_is_tried_elsewhere(crowd: World) -> None:
    crowd.cluster.hold_at = 0
    task = asyncio.create_task(crowd.chat())
    await crowd.until(lambda: crowd.cluster.requests())
    crowd.cluster.say(peer("prefill-0"), failed(peer("prefill-0"), crowd.cluster.requests()[0]))
    crowd.cluster.release()
    assert (await task).status_code == 200
    assert crowd.cluster.requests()[1].decode.node == "decode-1"


async def test_a_final_failure_is_told_without_a_nodes_own_words(world: World) -> None:
    world.cluster.hold_at = 0
    task = asyncio.create_task(world.chat())
    await world.until(lambda: world.cluster.requests())
    (request,) = world.cluster.requests()
    world.cluster.say(peer("prefill-0"), failed(peer("prefill-0"), request, retryable=False))
    reply = await task
    assert reply.status_code == 500
    assert "secret" not in reply.text


async def test_the_only_decode_node_comes_back_in_time(world: World) -> None:
    world.cluster.hold_at = 0
    task = asyncio.create_task(world.chat())
    await world.until(lambda: world.cluster.requests())
    world.cluster.kill("decode-0")
    world.cluster.say(peer("prefill-0"), failed(peer("prefill-0"), world.cluster.requests()[0]))
    await world.until(lambda: not world.service.ready)
    assert (await world.chat()).status_code == 503
    world.cluster.join("decode-0", "e2")
    world.cluster.release()
    assert (await task).json()["choices"][0]["message"]["content"] == ANSWER
    assert len(world.cluster.requests()) == 2


async def test_the_only_prefill_node_comes_back_in_time(world: World) -> None:
    world.cluster.kill("prefill-0")
    task = asyncio.create_task(world.chat(timing=True))
    await world.until(lambda: peer("prefill-0") not in [n.peer for n in world.service.fleet.nodes.values()])
    assert world.service.ready
    world.cluster.join("prefill-0", "e2")
    assert (await task).json()["timing"]["prefill"]["node"] == "prefill-0"


async def test_nothing_stays_behind(crowd: World) -> None:
    task = await begun(crowd, n=2)
    crowd.cluster.kill("decode-0")
    crowd.cluster.release()
    await task
    assert idle(crowd)


async def test_a_client_that_gives_up_while_it_waits_is_forgotten(world: World) -> None:
    world.cluster.hold_at = 0
    call = Call(world, stream=False)
    await world.until(lambda: world.cluster.requests())
    call.hang_up()
    await call.task
    assert world.cluster.cancelled() == {("prefill-0", 0), ("decode-0", 0)}
    assert idle(world)
    assert call.sent[0]["status"] == 499


async def test_a_client_that_gives_up_a_stream_is_forgotten(world: World) -> None:
    world.cluster.hold_at = 2
    call = Call(world, stream=True)
    await world.until(lambda: len(call.sent) >= 2)
    call.hang_up()
    await call.task
    assert world.cluster.cancelled() == {("prefill-0", 0), ("decode-0", 0)}
    assert idle(world)


async def test_a_client_that_gives_up_before_the_first_token_of_a_stream(world: World) -> None:
    world.cluster.hold_at = 0
    call = Call(world, stream=True)
    await world.until(lambda: world.cluster.requests())
    call.hang_up()
    await call.task
    assert idle(world)
    assert call.sent == []


async def test_a_client_that_does_not_read_is_cut_off(world: World) -> None:
    world.cluster.script = lambda request, choice: [*world.answer, *world.answer] * 20
    world.cluster.max_model_len = 4 * MAX_UNREAD_EVENTS
    world.cluster.join("prefill-0", "e2")
    world.cluster.join("decode-0", "e2")
    await world.until(lambda: world.service.max_model_len == 4 * MAX_UNREAD_EVENTS)
    call = Call(world, stream=True, reads=2)
    await world.until(lambda: world.cluster.cancelled())
    call.read_on()
    await call.task
    assert b"slow_reader" in call.sent[-1]["body"]
    assert idle(world)


async def test_the_first_beat_after_a_restart_of_the_router_asks_for_hello(empty: World) -> None:
    empty.cluster.alive.add(peer("decode-0"))
    answers = []
    send = empty.cluster.send

    def watch(to: Any, message: object) -> bool:
        answers.append(message)
        return send(to, message)

    empty.cluster.send = watch  # type: ignore[method-assign]
    empty.cluster.say(peer("decode-0"), Beat(NodeId("decode-0"), Epoch("e")))
    await empty.until(lambda: answers)
    assert isinstance(answers[0], Welcome)


async def test_nodes_hear_the_routers_heartbeat(world: World) -> None:
    beats = []
    send = world.cluster.send

    def watch(to: Any, message: object) -> bool:
        if isinstance(message, Beat):
            beats.append(to)
        return send(to, message)

    world.cluster.send = watch  # type: ignore[method-assign]
    await world.until(lambda: len(beats) >= 2)
    assert set(beats) == {peer("prefill-0"), peer("decode-0")}


class Call:
    """One chat, as an ASGI server would make it, whose client can hang up or stop reading."""

    def __init__(self, world: World, *, stream: bool, reads: int = 1 << 30) -> None:
        self.sent: list[dict[str, Any]] = []
        self._gone = asyncio.Event()
        self._read = asyncio.Event()
        self._reads = reads
        head = b'{"messages": [{"role": "user", "content": "x"}], "ignore_eos": true, "stream": '
        self._body = [head + (b"true}" if stream else b"false}")]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
            "query_string": b"", "root_path": "", "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1), "server": ("test", 80),
        }  # fmt: skip
        self.task = asyncio.ensure_future(world.app(scope, self._receive, self._send))

    def hang_up(self) -> None:
        self._gone.set()

    def read_on(self) -> None:
        self._read.set()

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if len(self.sent) >= self._reads:
            await self._read.wait()
        self.sent.append(message)
