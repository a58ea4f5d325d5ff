"""JSON null for a field means what leaving it out means."""

from __future__ import annotations

import pytest
from conftest import World

from router.schemas import ChatBody, CompletionBody

CHAT = [name for name, field in ChatBody.model_fields.items() if not field.is_required()]
COMPLETION = [name for name, field in CompletionBody.model_fields.items() if not field.is_required()]
UNKNOWN = ["user", "tools", "response_format", "best_of", "suffix", "store", "metadata"]


@pytest.fixture(autouse=True)
def same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.service.secrets.randbits", lambda bits: 5)


@pytest.mark.parametrize("field", [*CHAT, *UNKNOWN, "echo"])
async def test_chat(world: World, field: str) -> None:
    body = {"messages": [{"role": "user", "content": "x", "name": None}]}
    replies = [await world.post("/v1/chat/completions", **body, **more) for more in ({}, {field: None})]
    assert [reply.status_code for reply in replies] == [200, 200]
    left_out, null = world.cluster.requests()
    assert (null.sampling, null.tokens, null.seed) == (left_out.sampling, left_out.tokens, left_out.seed)
    assert null.cache_salt == left_out.cache_salt
    assert [reply.json().keys() for reply in replies[:1]] == [reply.json().keys() for reply in replies[1:]]


@pytest.mark.parametrize("field", [*COMPLETION, *UNKNOWN])
async def test_completions(world: World, field: str) -> None:
    replies = [await world.post("/v1/completions", prompt="x", **more) for more in ({}, {field: None})]
    assert [reply.status_code for reply in replies] == [200, 200]
    left_out, null = world.cluster.requests()
    assert (null.sampling, null.tokens, null.seed) == (left_out.sampling, left_out.tokens, left_out.seed)


async def test_options_of_a_stream(world: World) -> None:
    options = {"include_usage": None, "continuous_usage_stats": None}
    reply = await world.post("/v1/completions", prompt="x", stream=True, stream_options=options)
    assert reply.status_code == 200
    assert "usage" not in reply.text


@pytest.mark.parametrize(
    "field", ["model", "add_special_tokens", "add_generation_prompt", "return_token_strs", "messages"]
)
async def test_tokenize(world: World, field: str) -> None:
    replies = [await world.post("/tokenize", prompt="x", **more) for more in ({}, {field: None})]
    assert replies[0].json() == replies[1].json()
    assert replies[0].json()["count"] == 1
