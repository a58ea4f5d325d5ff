from __future__ import annotations

import httpx
from conftest import ANSWER, KEY, World

from router.app import make
from router.keys import KeyRing


async def test_live_asks_nothing_else(empty: World) -> None:
    assert (await empty.http.get("/live")).status_code == 200


async def test_ready_needs_a_pair(empty: World) -> None:
    assert (await empty.http.get("/ready")).status_code == 503
    empty.cluster.join("prefill-0")
    await empty.until(lambda: empty.service.fleet.nodes)
    assert (await empty.http.get("/ready")).status_code == 503
    empty.cluster.join("decode-0")
    await empty.until(lambda: empty.service.ready)
    assert (await empty.http.get("/ready")).status_code == 200


async def test_not_ready_while_draining(world: World) -> None:
    world.service.draining = True
    assert (await world.http.get("/ready")).status_code == 503


async def test_health_names_the_nodes_and_their_loads(world: World) -> None:
    world.cluster.beat("decode-0", batch=3.0)
    await world.until(lambda: world.service.fleet.nodes["decode-0"].load.running)  # type: ignore[index]
    reply = (await world.http.get("/health")).json()
    nodes = {node["node"]: node for node in reply["nodes"]}
    assert reply["status"] == "ready"
    assert nodes["decode-0"]["load"]["gauges"] == {"batch": 3.0}
    assert nodes["prefill-0"]["role"] == "prefill"


async def test_models(world: World) -> None:
    reply = (await world.http.get("/v1/models")).json()
    assert [card["id"] for card in reply["data"]] == ["demo", "other"]
    assert reply["data"][0]["max_model_len"] == 256


async def test_one_model(world: World) -> None:
    assert (await world.http.get("/v1/models/other")).json()["id"] == "other"
    assert (await world.http.get("/v1/models/a/b")).status_code == 404


async def test_version(world: World) -> None:
    assert (await world.http.get("/version")).json() == {"version": "0.1.0"}


async def test_tokenize_and_back(world: World) -> None:
    there = (await world.post("/tokenize", model="demo", prompt=ANSWER, return_token_strs=True)).json()
    assert there["tokens"] == world.answer
    assert (there["count"], there["max_model_len"]) == (len(world.answer), 256)
    assert "".join(there["token_strs"]) == ANSWER
    assert (await world.post("/detokenize", tokens=there["tokens"])).json() == {"prompt": ANSWER}


async def test_tokenize_a_chat_as_it_would_be_served(world: World) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    there = (await world.post("/tokenize", messages=messages)).json()
    await world.post("/v1/chat/completions", messages=messages)
    assert there["tokens"] == world.cluster.requests()[0].tokens


async def test_tokenize_needs_one_of_two(world: World) -> None:
    assert (await world.post("/tokenize", model="demo")).status_code == 400


async def test_detokenize_refuses_what_is_no_token(world: World) -> None:
    assert (await world.post("/detokenize", tokens=[1 << 40])).status_code == 400


async def test_metrics_count_requests_and_tokens(world: World) -> None:
    await world.chat()
    page = (await world.http.get("/metrics")).text
    assert 'pagewire:request_success_total{finished_reason="stop"} 1.0' in page
    assert "pagewire:time_to_first_token_seconds_count 1.0" in page
    assert f"pagewire:inter_token_latency_seconds_count {len(world.answer)}.0" in page
    assert f"pagewire:generation_tokens_total {len(world.answer) + 1}.0" in page
    assert "pagewire:prefix_cache_hits_total 3.0" in page


async def test_metrics_show_the_nodes(world: World) -> None:
    world.cluster.beat("decode-0", batch=3.0)
    await world.until(lambda: world.service.fleet.nodes["decode-0"].load.running)  # type: ignore[index]
    page = (await world.http.get("/metrics")).text
    assert 'pagewire:num_requests_running{node="decode-0",role="decode"} 2.0' in page
    assert 'pagewire:node_gauge{name="batch",node="decode-0",role="decode"} 3.0' in page


async def test_the_openapi_page_knows_the_bodies(world: World) -> None:
    page = (await world.http.get("/openapi.json")).json()
    body = page["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatBody"}
    assert "messages" in page["components"]["schemas"]["ChatBody"]["properties"]


async def test_no_page_of_another_site_may_ask(world: World) -> None:
    reply = await world.http.get("/v1/models", headers={"origin": "https://evil.example"})
    assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_pages_of_an_allowed_site_may_ask_and_are_asked_for_a_key(locked: World) -> None:
    app = make(locked.front, KeyRing([KEY]), ["https://good.example"])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for origin, allowed in (("https://good.example", True), ("https://evil.example", False)):
            asked = {"origin": origin, "access-control-request-method": "POST"}
            assert (await http.options("/v1/completions", headers=asked)).is_success is allowed
            reply = await http.get("/v1/models", headers={"origin": origin})
            assert reply.status_code == 401
            assert ("access-control-allow-origin" in reply.headers) is allowed


async def test_the_openapi_page_knows_every_error(world: World) -> None:
    page = (await world.http.get("/openapi.json")).json()
    answers = page["paths"]["/v1/chat/completions"]["post"]["responses"]
    statuses = "200 400 401 404 408 413 415 429 431 500 503 504"
    assert set(answers) == set(statuses.split())
    assert answers["400"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
