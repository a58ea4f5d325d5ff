"""Constrained output over the handoff and after a move: wherever it goes on, its matcher is made anew."""

from __future__ import annotations

from pathlib import Path

import one_process
import pytest
from alphabet import RECORD, regex, schema, text_of, vocabulary
from one_process import ROUTER, World
from tiny import model_folder, sequence

from pagewire.engine.build import build_engine
from pagewire.grammars import Grammars
from pagewire.messages import DECODE, PREFILL, DecodeTarget, Epoch, NodeId, PrefillRequest, RequestId
from pagewire.sampling import SamplingParams

PROMPT = [(7 * i) % 90 + 2 for i in range(37)]
PARAMS = SamplingParams(
    n=2, temperature=1.0, top_p=0.95, presence_penalty=0.3, max_tokens=90, grammar=schema(RECORD)
)


@pytest.fixture(params=[False, True], ids=["", "ahead"], autouse=True)
def _overlapped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_process, "ahead", request.param)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, prefill_pages=512, decode_pages=1024)
    for engine in made.engines():
        engine.grammars = Grammars(vocabulary)
    return made


def colocated(folder: Path, params: SamplingParams) -> dict[int, list[int]]:
    engine = build_engine(
        model_folder(folder), load_format="dummy", kv_cache_bytes=1 << 20, **one_process.on_a_gpu()
    ).engine
    engine.grammars = Grammars(vocabulary)
    engine.admit(sequence(PROMPT, params))
    answers: dict[int, list[int]] = {}
    while engine.busy:
        for token in engine.step().tokens:
            answers.setdefault(token.choice, []).append(token.sampled.token)
    return answers


def test_disaggregated_is_colocated(world: World, tmp_path: Path) -> None:
    request = world.ask(PROMPT, PARAMS)
    world.run()
    expected = colocated(tmp_path, PARAMS)
    assert world.answers() == {(request, choice): (tokens, "stop") for choice, tokens in expected.items()}
    assert all(text_of(tokens).startswith('{"name":') for tokens in expected.values())
    world.check_nothing_is_held()


def test_an_answer_that_the_first_token_completes_is_not_handed_over(world: World) -> None:
    request = world.ask(PROMPT, SamplingParams(max_tokens=9, grammar=regex("[a-z]")))
    world.run()
    ((tokens, finish),) = (world.answers()[request, 0],)
    assert (len(tokens), finish) == (1, "stop")
    assert world.items(DECODE) == []
    world.check_nothing_is_held()


def test_a_grammar_that_cannot_be_used_fails_its_request_for_good(world: World) -> None:
    world.ask(PROMPT, SamplingParams(grammar=regex("((")))
    world.run()
    (failed,) = world.failures()
    assert (failed.code, failed.retryable) == ("grammar_failed", False)
    world.check_nothing_is_held()


def test_the_same_tokens_from_every_point_on(world: World) -> None:
    name = world.ask(PROMPT, PARAMS)
    world.run()
    whole = {choice: world.answers()[name, choice][0] for choice in range(PARAMS.n)}
    for post in world.posts.values():
        post.sent.clear()
    points = [(choice, point) for choice, tokens in whole.items() for point in range(len(tokens))]
    for choice, point in points:
        moved = PrefillRequest(
            RequestId(f"{choice}/{point}"), 1, [choice], PROMPT + whole[choice][:point], len(PROMPT), PARAMS,
            7, "moved", 60_000, DecodeTarget(NodeId("d"), Epoch("de"), "d"),
        )  # fmt: skip
        world.posts[PREFILL].inbox.append((ROUTER, moved))
    world.run()
    items = world.items()
    for choice, point in points:
        mine = {item.index: item for item in items if item.request == f"{choice}/{point}"}
        assert sorted(mine) == list(range(point, len(whole[choice])))
        assert [mine[at].token for at in sorted(mine)] == whole[choice][point:]
        assert mine[len(whole[choice]) - 1].finish == "stop"
    world.check_nothing_is_held()
