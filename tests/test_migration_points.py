"""A sampled sequence that goes on elsewhere after any number of its tokens gives the same tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_process import ROUTER, World

from pagewire.messages import PREFILL, DecodeTarget, Epoch, NodeId, PrefillRequest, RequestId
from pagewire.sampling import SamplingParams

POINTS = 65
PROMPT = [(7 * i) % 90 + 2 for i in range(37)]
PARAMS = SamplingParams(
    n=3,
    temperature=0.8,
    top_p=0.9,
    presence_penalty=0.5,
    frequency_penalty=0.3,
    logprobs=2,
    ignore_eos=True,
    max_tokens=70,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, prefill_pages=512, decode_pages=1024)


def go_on(world: World, choice: int, tokens: list[int], point: int) -> RequestId:
    """What a router sends when the decode node of ``choice`` is lost after ``point`` tokens."""
    request = RequestId(f"{choice}/{point}")
    target = DecodeTarget(NodeId("d"), Epoch("de"), "d")
    moved = PrefillRequest(
        request, 1, [choice], PROMPT + tokens[:point], len(PROMPT), PARAMS, 7, "moved", 60_000, target
    )
    world.posts[PREFILL].inbox.append((ROUTER, moved))
    return request


def test_tokens_are_the_same_from_every_point_on(world: World) -> None:
    name = world.ask(PROMPT, PARAMS)
    world.run()
    whole = world.answers()
    scores = {(i.choice, i.index): (i.logprob, i.top) for i in world.items()}
    for post in world.posts.values():
        post.sent.clear()
    choices = [point % PARAMS.n for point in range(POINTS)]
    moved = [go_on(world, c, whole[name, c][0], point) for point, c in enumerate(choices)]
    world.run()
    items = world.items()
    for point, (choice, request) in enumerate(zip(choices, moved, strict=True)):
        mine = {i.index: i for i in items if i.request == request}
        assert sorted(mine) == list(range(point, 70))
        assert [mine[i].token for i in range(point, 70)] == whole[name, choice][0][point:]
        assert all((i.logprob, i.top) == scores[choice, i.index] for i in mine.values())
    world.check_nothing_is_held()
