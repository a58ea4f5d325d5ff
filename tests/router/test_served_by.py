"""What the header says, of the nodes that stubs were told to be."""

from __future__ import annotations

import re

import httpx
from conftest import World, running

from pagewire.mailbox import Peer
from pagewire.messages import Epoch, NodeId, PagesChanged
from pagewire.page_chain import Labels, pack
from pagewire.text.tokenizer import Tokenizer

HEADER = "x-pagewire-served-by"
STORY = "Once upon a time there was a router that remembered where it had sent what it had sent. " * 3


async def stream(world: World, **body: object) -> httpx.Response:
    return await world.complete(stream=True, **body)


async def test_whole_replies_and_streams_say_who_serves(world: World) -> None:
    want = "prefill=prefill-0; decode=decode-0; why=load"
    assert [reply.headers[HEADER] for reply in (await world.chat(), await stream(world))] == [want] * 2


async def test_several_prompts_tell_of_each_once(crowd: World) -> None:
    reply = await crowd.complete(["One", "Two", "Three"], max_tokens=2)
    told = reply.headers[HEADER].split(", ")
    assert len(told) == len(set(told)) > 1


async def test_after_a_retry_it_is_the_attempt_that_answered(crowd: World) -> None:
    crowd.cluster.apart = {("prefill-0", "decode-0")}
    for reply in (await stream(crowd), await crowd.complete()):
        assert reply.headers[HEADER].startswith("prefill=prefill-1;")


async def test_a_refused_request_says_nothing(world: World) -> None:
    assert HEADER not in (await world.chat(max_tokens=-1)).headers


async def test_a_prefix_that_a_node_told_of_is_followed(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode(STORY)
    world = World(tokenizer, placement="prefix")
    async with running(world, "prefill-0", "prefill-1", "decode-0"):
        who = Peer(NodeId("prefill-1"), Epoch("e"))
        pages = pack(list(Labels(prompt, "", 16)))
        world.cluster.say(who, PagesChanged(who.node, who.epoch, 1, 0, pages, b""))
        await world.until(lambda: len(world.service.requests.placing.index) > 0)
        reply = await world.complete(STORY)
        told = re.fullmatch(
            r"prefill=prefill-1; decode=decode-0; why=prefix:(\d+)/(\d+)", reply.headers[HEADER]
        )
        assert told is not None
        assert (int(told[1]), int(told[2])) == (len(prompt) // 16 * 16, len(prompt))
        page = (await world.http.get("/metrics")).text
        assert 'pagewire:placements_total{reason="prefix"} 1.0' in page
        assert "pagewire:ttft_prediction_error_seconds_count 1.0" in page


async def test_a_prompt_that_is_scored_finds_nothing(tokenizer: Tokenizer) -> None:
    """Its log-probabilities are those of all its tokens: nodes compute all of them."""
    async with running(World(tokenizer, placement="prefix"), "prefill-0", "decode-0") as world:
        for _ in range(2):
            reply = await world.complete(STORY, echo=True, logprobs=1)
        assert reply.headers[HEADER] == "prefill=prefill-0; decode=decode-0; why=load"


async def test_never_is_read_by_the_decode_node(tokenizer: Tokenizer) -> None:
    async with running(World(tokenizer, disaggregate="never"), "prefill-0", "decode-0") as world:
        assert (await world.chat()).headers[HEADER] == "prefill=decode-0; decode=decode-0; why=alone"
