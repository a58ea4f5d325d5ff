"""Ended requests as plain facts: told once, and not before the nodes have told what they had to."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from conftest import World
from router_stubs import peer

from pagewire import timeline
from pagewire.messages import DECODE, PREFILL, Spans, Tokens
from router.finished import NOBODY, Finished, Segment
from router.recorder import LINGER_S

ENDED = Finished(
    request="r", about=NOBODY, arrived=5.0, first_s=1.0, last_s=3.0, ended_s=3.5, prompt_tokens=9,
    cached_tokens=4, completion_tokens=8, longest_choice=8, finish="stop", code="", status=200, attempts=1,
    prefill_node="prefill-0", decode_node="decode-0", queue_ms=100.0, prefill_ms=600.0, hidden_ms=50.0,
    exposed_ms=500.0, handoff_bytes=640, decode_queue_ms=1.0,
)  # fmt: skip


def told(world: World) -> list[Finished]:
    found: list[Finished] = []
    world.service.requests.recorder.observers.append(found.append)
    return found


async def test_a_request_is_told_once_with_who_asked(world: World) -> None:
    found = told(world)
    reply = (await world.chat(timing=True)).json()
    (ended,) = found
    assert reply["id"].endswith(ended.request)
    assert (ended.about.model, ended.about.stream, ended.finish, ended.status) == ("demo", False, "stop", 200)
    assert (ended.prefill_node, ended.decode_node) == ("prefill-0", "decode-0")
    assert ended.completion_tokens == reply["usage"]["completion_tokens"]
    assert ended.exposed_ms == reply["timing"]["transfer_ms"]["exposed"]


async def test_the_tenant_is_a_name_that_is_not_the_key(locked: World) -> None:
    found = told(locked)
    locked.http.headers["authorization"] = "Bearer sk-right"
    await locked.chat()
    await locked.until(lambda: found)
    assert found[0].about.tenant
    assert "sk-right" not in repr(found[0])


async def test_what_comes_after_the_answer_is_waited_for(world: World) -> None:
    found = told(world)
    world.cluster.mute = True
    await world.chat(stream=True)
    assert found == []
    request = world.cluster.requests()[0].request
    prefill, decode = peer("prefill-0"), peer("decode-0")
    ms = {timeline.PREFILL_COMPUTE: 2.0, timeline.TRANSFER_EXPOSED: 3.0}
    late = Spans(request, 0, prefill.node, PREFILL, 7, ms, {timeline.TRANSFER_BYTES: 640})
    first = Spans(request, 0, decode.node, DECODE, 8, {timeline.FIRST_STEP: 1.0}, {})
    world.cluster.say(decode, Tokens(decode.node, decode.epoch, [], [first]))
    world.cluster.say(prefill, Tokens(prefill.node, prefill.epoch, [], [late]))
    await world.until(lambda: found)
    assert (found[0].exposed_ms, found[0].handoff_bytes) == (3.0, 640)


async def test_what_never_comes_is_not_waited_for_for_ever(world: World) -> None:
    found, recorder = told(world), world.service.requests.recorder
    world.cluster.mute = True
    await world.chat(stream=True)
    recorder.tick(world.service.clock() + LINGER_S / 2)
    assert found == []
    recorder.tick(world.service.clock() + LINGER_S)
    assert [request.exposed_ms for request in found] == [None]


async def test_a_client_that_leaves_is_told_as_such(world: World) -> None:
    found = told(world)
    world.cluster.hold_at = 2
    task = asyncio.create_task(world.chat())
    await world.until(lambda: not world.service.requests.ledger.prefilling and world.cluster.requests())
    task.cancel()
    await world.until(lambda: found)
    assert (found[0].finish, found[0].status) == ("abort", 499)


def test_segments_follow_each_other_from_arrival_to_the_last_token() -> None:
    assert list(ENDED.segments()) == [
        Segment("queue", 0.0, pytest.approx(0.4), ""),
        Segment("prefill", pytest.approx(0.4), 1.0, "prefill-0"),
        Segment("handoff", 1.0, 1.5, "prefill-0"),
        Segment("decode", 1.5, 3.0, "decode-0"),
    ]


def test_what_was_read_by_the_decode_node_itself_has_no_handoff() -> None:
    names = [segment.name for segment in replace(ENDED, handoff_bytes=0, exposed_ms=0.0).segments()]
    assert names == ["queue", "prefill", "decode"]


def test_a_request_without_a_token_only_queued() -> None:
    assert list(replace(ENDED, first_s=None).segments()) == [Segment("queue", 0.0, 3.5, "")]
