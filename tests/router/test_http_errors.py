from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from conftest import KEY, World

from router.body import MAX_BODY

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def fault(reply: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of an error in OpenAI's shape."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return reply.status_code, error["code"], error["param"]


async def raw(world: World, body: bytes, path: str = CHAT) -> httpx.Response:
    return await world.http.post(path, content=body, headers=JSON)


async def test_no_such_route(world: World) -> None:
    assert fault(await world.http.get("/v1/nothing")) == (404, "not_found", None)


async def test_wrong_method(world: World) -> None:
    reply = await world.http.get(CHAT)
    assert fault(reply) == (405, "method_not_allowed", None)
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"temperature": NaN}',
        b'{"temperature": 1e999999, "x": -Infinity}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
async def test_not_json(world: World, body: bytes) -> None:
    assert fault(await raw(world, body)) == (400, "invalid_json", None)


async def test_a_field_given_twice(world: World) -> None:
    assert fault(await raw(world, b'{"n": 1, "n": 2}')) == (400, "invalid_json", "n")


async def test_a_body_that_is_no_object(world: World) -> None:
    assert fault(await raw(world, b"[]"))[0] == 400


async def test_a_body_of_another_type(world: World) -> None:
    reply = await world.http.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
    assert fault(reply) == (415, "unsupported_media_type", None)


async def test_a_body_that_is_too_large(world: World) -> None:
    assert fault(await raw(world, b" " * (MAX_BODY + 1))) == (413, "request_too_large", None)


async def test_a_body_that_is_too_large_and_does_not_say_so(world: World) -> None:
    async def endless() -> object:
        for _ in range(100):
            yield b" " * 100_000

    reply = await world.http.post(CHAT, content=endless(), headers=JSON)  # type: ignore[arg-type]
    assert fault(reply) == (413, "request_too_large", None)


async def test_an_unknown_model(world: World) -> None:
    reply = await world.post(CHAT, model="gpt-9", messages=[{"role": "user", "content": "x"}])
    assert fault(reply) == (404, "model_not_found", "model")


async def test_a_prompt_that_is_too_long_is_told_the_numbers(world: World) -> None:
    reply = await world.complete([5] * 300, max_tokens=7)
    assert fault(reply) == (400, "context_length_exceeded", "prompt")
    assert "300" in reply.json()["error"]["message"]
    assert "256" in reply.json()["error"]["message"]


async def test_too_many_tokens_asked_for(world: World) -> None:
    reply = await world.complete([5] * 200, max_tokens=57)
    assert fault(reply) == (400, "context_length_exceeded", "max_tokens")
    message = reply.json()["error"]["message"]
    assert all(number in message for number in ("200", "57", "257", "256"))


async def test_a_default_of_max_tokens_gives_way(world: World) -> None:
    assert (await world.complete([5] * 250)).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "hot"), ("temperature", -1), ("top_p", 0), ("n", 0), ("n", 1.5), ("n", True),
        ("max_tokens", 0), ("stop", [""]), ("stop", 7), ("logit_bias", {"x": 1}), ("logit_bias", {"1": 999}),
        ("seed", 1 << 70), ("top_logprobs", 2), ("messages", []), ("messages", "hi"), ("messages", [7]),
        ("messages", [{"content": "no role"}]), ("stream_options", {"include_usage": True}),
        ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("audio", {"voice": "x"}),
        ("response_format", 7), ("guided_regex", ""), ("best_of", 3), ("echo", True), ("min_tokens", 999),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(world: World, field: str, value: object) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, field: value}
    reply = await world.post(CHAT, **body)
    status, _, param = fault(reply)
    assert (status, param) == (400, field)
    assert world.cluster.requests() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("tools", []), ("response_format", {"type": "text"}), ("best_of", 1), ("user", "me"), ("tools", None)],
)
async def test_fields_that_ask_for_nothing_pass(world: World, field: str, value: object) -> None:
    assert (await world.chat(**{field: value})).status_code == 200


HALF = "\ud800"  # of a surrogate pair: a text in JSON, and none in Unicode


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache_salt", HALF), ("stop", HALF), ("stop", ["a", "b" + HALF]), ("model", HALF), ("user", HALF),
        ("metadata", {HALF: "x"}), (HALF, 1), ("logit_bias", {HALF: 1}), ("tool_choice", HALF),
        ("messages", [{"role": HALF, "content": "x"}]), ("messages", [{"role": "user", "name": HALF}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": HALF}]}]),
        ("messages", [{"role": "user", "content": "x", "extra": HALF}]),
    ],
    ids=ascii,
)  # fmt: skip
async def test_half_a_character_is_refused_wherever_it_is(world: World, field: str, value: object) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], field: value}
    assert fault(await raw(world, json.dumps(body).encode()))[0] == 400
    assert world.cluster.requests() == []


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
async def test_a_prompt_with_half_a_character(world: World, path: str) -> None:
    body = json.dumps({"prompt": f"x{HALF}"}).encode()
    assert fault(await raw(world, body, path))[:2] == (400, "invalid_json")


async def test_a_model_in_the_path_that_is_no_text(world: World) -> None:
    assert fault(await world.http.get("/v1/models/%ED%A0%80"))[:2] == (404, "model_not_found")


@pytest.mark.parametrize("prompt", [[], "", [[]], [-1], [1 << 40], [True], [1.5], {"a": 1}, ["a", 1], None])
async def test_a_prompt_that_is_none(world: World, prompt: object) -> None:
    status, _, param = fault(await world.complete(prompt))
    assert (status, param) == (400, "prompt")


async def test_too_many_choices(world: World) -> None:
    assert fault(await world.complete(["x"] * 65)) == (400, "invalid_request", "n")


async def test_a_message_with_an_image(world: World) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    reply = await world.post(CHAT, messages=[{"role": "user", "content": parts}])
    assert fault(reply) == (400, "invalid_request", "messages[0].content[0]")


async def test_no_nodes(empty: World) -> None:
    reply = await empty.chat()
    assert fault(reply) == (503, "unavailable", None)
    assert int(reply.headers["retry-after"]) >= 1


async def test_too_many_requests(crowd: World) -> None:
    crowd.cluster.hold_at = 0
    running = [asyncio.create_task(crowd.chat()) for _ in range(4)]
    await crowd.until(lambda: crowd.service.inflight == 4)
    reply = await crowd.chat()
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1
    crowd.cluster.release()
    assert [(await task).status_code for task in running] == [200] * 4


async def test_draining(world: World) -> None:
    world.service.draining = True
    assert fault(await world.chat())[:2] == (503, "unavailable")


async def test_our_own_mistake_shows_nothing_of_our_inside(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise LookupError("/secret/path")

    monkeypatch.setattr(world.service, "submit", broken)
    reply = await world.chat()
    assert fault(reply) == (500, "internal_error", None)
    assert "secret" not in reply.text


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, "Bearer ü"])
async def test_without_a_key(locked: World, header: str | None) -> None:
    headers = {"authorization": header.encode()} if header else {}
    for path in ("/v1/models", "/metrics", "/version", "/docs", "/openapi.json", "/nothing"):
        reply = await locked.http.get(path, headers=headers)
        assert fault(reply) == (401, "invalid_api_key", None)


async def test_with_a_key(locked: World) -> None:
    reply = await locked.http.get("/v1/models", headers={"authorization": f"Bearer {KEY}"})
    assert reply.status_code == 200


async def test_what_needs_no_key(locked: World) -> None:
    assert (await locked.http.get("/live")).status_code == 200
    assert (await locked.http.get("/ready")).status_code == 200
    assert (await locked.http.get("/health")).json() == {"status": "ready"}


async def test_each_answer_has_an_id_of_ours(world: World) -> None:
    ok, wrong = await world.chat(), await world.http.get("/nothing")
    assert ok.json()["id"] == "chatcmpl-" + ok.headers["x-request-id"]
    assert wrong.headers["x-request-id"] != ok.headers["x-request-id"]
    assert world.cluster.requests()[0].request == ok.headers["x-request-id"]


async def test_a_clients_id_is_echoed_and_not_used(world: World) -> None:
    body = {"model": "demo", "prompt": "x"}
    reply = await world.http.post("/v1/completions", json=body, headers={"x-request-id": "mine"})
    assert reply.headers["x-request-id"] == "mine"
    assert world.cluster.requests()[0].request != "mine"


@pytest.mark.parametrize("theirs", ["x" * 129, b"caf\xc3\xa9", "a\tb"])
async def test_a_strange_id_is_not_echoed(world: World, theirs: str | bytes) -> None:
    reply = await world.http.get("/live", headers=[(b"x-request-id", theirs)])  # type: ignore[list-item]
    assert len(reply.headers["x-request-id"]) == 32


async def test_the_error_of_a_stream_that_has_begun_is_its_last_event(crowd: World) -> None:
    crowd.cluster.hold_at = 2
    task = asyncio.create_task(crowd.chat(stream=True))
    await crowd.until(lambda: crowd.cluster.requests())
    await crowd.until(lambda: crowd.service.requests.ledger.prefilling == {})
    for name in ("decode-0", "decode-1"):
        crowd.cluster.kill(name)
    text = (await task).text
    last = text.rstrip("\n").rpartition("\n\n")[2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "worker_lost"
    assert "[DONE]" not in text


async def test_an_error_before_the_stream_has_begun_is_an_http_error(crowd: World) -> None:
    crowd.cluster.hold_at = 0
    task = asyncio.create_task(crowd.chat(stream=True))
    await crowd.until(lambda: crowd.cluster.requests())
    for name in ("decode-0", "decode-1"):
        crowd.cluster.kill(name)
    assert fault(await task)[:2] == (503, "worker_lost")


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "x", "y": ' + b"[" * 32 + b"]" * 32 + b"}",
        b'{"prompt": "x", "y": ' + b'{"z":' * 32 + b"1" + b"}" * 32 + b"}",
        b'{"prompt": "x", "y": [' + b"1," * (1 << 18) + b"1]}",
        b'{"prompt": "x", "y": {' + b",".join(b'"%d":1' % n for n in range(2049)) + b"}}",
        b'{"prompt": "x", "y": "' + b"y" * ((1 << 20) + 1) + b'"}',
        b'{"prompt": "x", "y": 1e400}',
    ],
    ids=["arrays", "objects", "values", "fields", "text", "number"],
)
async def test_json_has_limits(world: World, body: bytes) -> None:
    assert fault(await raw(world, body, "/tokenize"))[:2] == (400, "invalid_json")


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "x", "y": ' + b"[" * 31 + b"]" * 31 + b"}",
        b'{"prompt": "x", "y": [' + b"[],{}," * 1000 + b"1]}",
        b'{"prompt": "x", "y": ["' + b"[" * 100 + b'", "\\\\\\"' + b"{" * 100 + b'"]}',
        b'{"prompt": "x", "y": "' + b"x, " * (1 << 18) + b'"}',
        b'{"prompt": "x", "y": {' + b",".join(b'"%d":1' % n for n in range(2048)) + b"}}",
    ],
    ids=["depth", "width", "in texts", "commas in texts", "fields"],
)
async def test_json_within_its_limits(world: World, body: bytes) -> None:
    assert (await raw(world, body, "/tokenize")).status_code == 200


@pytest.mark.parametrize(("field", "value"), [("prompt", True), ("stop", 1), ("stop_token_ids", "x")])
async def test_a_list_of_faults_is_told_by_its_first(world: World, field: str, value: object) -> None:
    """A quarter of a million of them take seconds to list, in which nobody else is served."""
    reply = await world.post("/v1/completions", **({"prompt": "x"} | {field: [value] * 100_000}))
    assert fault(reply) == (400, "invalid_request", field)
    assert len(reply.text) < 1000
