from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from conftest import ANSWER, World
from router_stubs import CACHED, failed, peer

from pagewire.messages import PREFILL, Spans, Tokens
from pagewire.timeline import CACHED_TOKENS


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of a stream that ended as it should."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_a_whole_chat(world: World) -> None:
    reply = (await world.chat()).json()
    (choice,) = reply["choices"]
    assert reply["object"] == "chat.completion"
    assert choice["message"]["content"] == ANSWER
    assert choice["finish_reason"] == "stop"


async def test_usage_counts_every_token(world: World) -> None:
    usage = (await world.chat()).json()["usage"]
    (request,) = world.cluster.requests()
    assert usage["prompt_tokens"] == len(request.tokens)
    assert usage["completion_tokens"] == len(world.answer) + 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": CACHED}


async def test_cached_tokens_never_exceed_the_prompt(world: World) -> None:
    usage = (await world.complete([5, 6])).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}


async def test_nodes_that_tell_nothing_delay_a_reply_only_a_moment(world: World) -> None:
    world.cluster.mute = True
    usage = (await world.complete()).json()["usage"]
    assert usage["prompt_tokens_details"] is None


async def test_counts_that_come_after_the_last_token_are_waited_for(world: World) -> None:
    world.cluster.mute = True
    task = asyncio.create_task(world.complete())
    await world.until(lambda: world.cluster.requests())
    (member,) = world.service.requests._inflight.values()
    await world.until(lambda: member.ended_at is not None)
    request, who = member.dispatch.job.request, peer("prefill-0")
    spans = Spans(request, 0, who.node, PREFILL, 7, {}, {CACHED_TOKENS: 2})
    world.cluster.say(who, Tokens(who.node, who.epoch, [], [spans]))
    assert (await task).json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


async def test_one_prompt_that_fails_ends_the_others(world: World) -> None:
    world.cluster.hold_at = 0
    task = asyncio.create_task(world.complete(["one", "two"]))
    await world.until(lambda: len(world.cluster.requests()) == 2)
    told = failed(peer("prefill-0"), world.cluster.requests()[0], retryable=False)
    world.cluster.say(peer("prefill-0"), told)
    assert (await task).status_code == 500
    assert len(world.service.requests) == 0


async def test_a_chat_without_max_tokens_goes_as_far_as_there_is_room(world: World) -> None:
    await world.chat()
    (request,) = world.cluster.requests()
    assert request.sampling.max_tokens == 256 - len(request.tokens)


async def test_max_completion_tokens_outranks_max_tokens(world: World) -> None:
    reply = (await world.chat(max_tokens=9, max_completion_tokens=2)).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 2


async def test_a_streamed_chat(world: World) -> None:
    chunks = events((await world.chat(stream=True)).text)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == ANSWER
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "stop"
    assert {c["id"] for c in chunks} == {chunks[0]["id"]}


async def test_a_stream_with_usage_ends_with_it(world: World) -> None:
    chunks = events((await world.chat(stream=True, stream_options={"include_usage": True})).text)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(world.answer) + 1
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_running_usage(world: World) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events((await world.chat(stream=True, stream_options=options)).text)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == len(world.answer) + 1


async def test_n_choices_share_the_prompt(world: World) -> None:
    reply = (await world.chat(n=2)).json()
    assert [choice["message"]["content"] for choice in reply["choices"]] == [ANSWER, ANSWER + ANSWER]
    (request,) = world.cluster.requests()
    assert reply["usage"]["prompt_tokens"] == len(request.tokens)


async def test_a_streamed_n_keeps_choices_apart(world: World) -> None:
    chunks = events((await world.chat(n=2, stream=True)).text)
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [ANSWER, ANSWER + ANSWER]


async def test_chat_logprobs(world: World) -> None:
    reply = (await world.chat(logprobs=True, top_logprobs=2, max_tokens=3)).json()
    content = reply["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == world.tokenizer.decode(world.answer[:3])
    assert bytes(content[0]["bytes"]).decode() == content[0]["token"]
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2, 2]
    assert content[0]["logprob"] == -0.5


async def test_streamed_logprobs_are_those_of_the_whole(world: World) -> None:
    whole = (await world.chat(logprobs=True, top_logprobs=1)).json()["choices"][0]["logprobs"]["content"]
    chunks = events((await world.chat(logprobs=True, top_logprobs=1, stream=True)).text)
    parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [entry for part in parts for entry in part["content"]] == whole


async def test_decode_may_overtake_prefill(world: World) -> None:
    world.cluster.decode_first = True
    reply = (await world.chat()).json()
    assert reply["choices"][0]["message"]["content"] == ANSWER
    assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": CACHED}


async def test_a_stop_string_cuts_the_text_and_cancels_the_nodes(world: World) -> None:
    reply = (await world.chat(stop=["This"])).json()
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == " Hello, wörld! "
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "This")
    assert world.cluster.cancelled() == {("prefill-0", 0), ("decode-0", 0)}


async def test_a_stop_string_in_one_of_two_choices_cuts_that_one(world: World) -> None:
    world.cluster.script = lambda request, choice: world.answer[: 99 if choice else 3]
    reply = (await world.chat(n=2, stop=["This"])).json()
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["stop", "stop"]
    assert world.cluster.cancelled() == {("prefill-0", 0), ("decode-0", 0)}
    assert world.cluster.cut() == set()


async def test_a_choice_that_was_cut_is_stopped_while_its_sibling_goes_on(world: World) -> None:
    other = world.tokenizer.encode(" and so on and on and on", add_special_tokens=False)
    world.cluster.script = lambda request, choice: other * 3 if choice else world.answer * 9
    reply = (await world.chat(n=2, stop=["wör"])).json()
    assert reply["choices"][0]["message"]["content"] == " Hello, "
    assert reply["choices"][1]["message"]["content"] == " and so on and on and on" * 3
    assert world.cluster.cut() == {("decode-0", 0, 0)}


async def test_a_stop_string_may_be_kept(world: World) -> None:
    reply = (await world.complete(stop="This", include_stop_str_in_output=True)).json()
    assert reply["choices"][0]["text"] == " Hello, wörld! This"


async def test_no_part_of_a_stop_string_is_streamed(world: World) -> None:
    chunks = events((await world.complete(stop="is a", stream=True)).text)
    assert "".join(c["choices"][0]["text"] for c in chunks) == " Hello, wörld! This "


async def test_a_stop_token_is_named(world: World) -> None:
    token = world.answer[2]
    (choice,) = (await world.complete(stop_token_ids=[token])).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", token)
    assert choice["text"] == world.tokenizer.decode(world.answer[:2])


async def test_a_whole_completion(world: World) -> None:
    reply = (await world.complete(max_tokens=50)).json()
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"] == ANSWER


async def test_completions_default_to_sixteen_tokens(world: World) -> None:
    await world.complete()
    assert world.cluster.requests()[0].sampling.max_tokens == 16


async def test_several_prompts_keep_their_order(world: World) -> None:
    reply = (await world.complete(["one", "two"], n=2)).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    one, two = (len(request.tokens) for request in world.cluster.requests())
    assert reply["usage"]["prompt_tokens"] == one + two


async def test_token_id_prompts(world: World) -> None:
    await world.complete([5, 6, 7])
    await world.complete([[5, 6], [7]])
    assert [request.tokens for request in world.cluster.requests()] == [[5, 6, 7], [5, 6], [7]]


async def test_echo_gives_the_prompt_back(world: World) -> None:
    reply = (await world.complete("Once", echo=True, max_tokens=50)).json()
    assert reply["choices"][0]["text"] == "Once" + ANSWER


async def test_streamed_echo(world: World) -> None:
    chunks = events((await world.complete("Once", echo=True, max_tokens=50, stream=True)).text)
    assert chunks[0]["choices"][0]["text"] == "Once"
    assert "".join(c["choices"][0]["text"] for c in chunks) == "Once" + ANSWER


async def test_completion_logprobs_with_echo(world: World) -> None:
    prompt = world.tokenizer.encode("Once upon a time", add_special_tokens=False)
    reply = (await world.complete(prompt, echo=True, logprobs=1, max_tokens=3)).json()
    (choice,) = reply["choices"]
    logprobs = choice["logprobs"]
    assert {len(column) for column in logprobs.values()} == {len(prompt) + 3}
    assert logprobs["token_logprobs"][:2] == [None, -1.0]
    assert logprobs["top_logprobs"][0] is None
    starts = zip(logprobs["text_offset"], logprobs["tokens"], strict=True)
    assert all(choice["text"].startswith(token, at) for at, token in starts if "\ufffd" not in token)


SPLIT = "naïve 🦜🦜 日本語, a 𝔘nicode 文 of mine"


@pytest.mark.parametrize("as_ids", [False, True])
async def test_offsets_of_an_echoed_prompt_do_not_drift_on_split_characters(
    world: World, as_ids: bool
) -> None:
    tokens = world.tokenizer.encode(SPLIT, add_special_tokens=False)
    assert len(tokens) > len(SPLIT.split()) + 8  # some characters take several tokens
    reply = (await world.complete(tokens if as_ids else SPLIT, echo=True, logprobs=0, max_tokens=2)).json()
    (choice,) = reply["choices"]
    offsets, texts = choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"]
    whole = [(at, text) for at, text in zip(offsets, texts, strict=True) if "\ufffd" not in text]
    assert all(choice["text"].startswith(text, at) for at, text in whole)
    assert offsets == sorted(offsets)
    assert offsets[len(tokens)] == len(SPLIT)


async def test_parts_of_one_character_share_its_offset(world: World) -> None:
    reply = (await world.complete("a🦜b", echo=True, logprobs=0, max_tokens=0)).json()
    logprobs = reply["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) > 3
    assert logprobs["text_offset"] == [0] + [1] * (len(logprobs["tokens"]) - 2) + [2]


async def test_streamed_echo_logprobs_wait_for_the_prompt(world: World) -> None:
    world.cluster.decode_first = True
    body = {"echo": True, "logprobs": 0, "max_tokens": 3}
    whole = (await world.complete([5, 6, 7], **body)).json()["choices"][0]["logprobs"]["tokens"]
    chunks = events((await world.complete([5, 6, 7], stream=True, **body)).text)
    parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [token for part in parts for token in part["tokens"]] == whole


async def test_echo_of_the_prompt_alone(world: World) -> None:
    reply = (await world.complete("Once", echo=True, max_tokens=0, logprobs=1)).json()
    assert reply["choices"][0]["text"] == "Once"
    assert reply["usage"]["completion_tokens"] == 0


async def test_token_ids_of_the_reply(world: World) -> None:
    reply = (await world.complete(return_token_ids=True, max_tokens=3)).json()
    assert reply["choices"][0]["token_ids"] == world.answer[:3]


async def test_parameters_reach_the_nodes(world: World) -> None:
    await world.chat(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, presence_penalty=1.0, frequency_penalty=-1.0,
        repetition_penalty=1.1, min_tokens=2, seed=42, logit_bias={"7": 1.5}, stop_token_ids=[9],
        cache_salt="pepper", temperature_unknown=1, user="me", max_tokens=9, ignore_eos=True,
    )  # fmt: skip
    (request,) = world.cluster.requests()
    sampling = request.sampling
    assert (request.seed, request.cache_salt) == (42, "pepper")
    assert (sampling.temperature, sampling.top_k, sampling.logit_bias) == (0.5, 7, {7: 1.5})
    assert (sampling.min_tokens, sampling.ignore_eos) == (2, True)


async def test_a_seed_is_drawn_where_none_is_given(world: World) -> None:
    await world.chat()
    await world.chat()
    first, second = world.cluster.requests()
    assert first.seed != second.seed


async def test_timing_tells_who_did_what(world: World) -> None:
    timing = (await world.chat(timing=True)).json()["timing"]
    assert timing["queue_ms"] == 1.0
    assert timing["transfer_ms"] == {"exposed": 3.0, "hidden": None}
    assert (timing["prefill"]["node"], timing["decode"]["node"]) == ("prefill-0", "decode-0")
    assert timing["attempts"] == 1
    assert 0 < timing["ttft_ms"] <= timing["total_ms"]


async def test_timing_by_header_in_the_last_chunk(world: World) -> None:
    body = {"model": "demo", "prompt": "x", "stream": True}
    reply = await world.http.post("/v1/completions", json=body, headers={"x-pagewire-timing": "1"})
    assert events(reply.text)[-1]["timing"]["transfer_bytes"] == 640


async def test_text_parts_of_a_message_are_joined(world: World) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    await world.post("/v1/chat/completions", messages=[{"role": "user", "content": parts}])
    assert "one\ntwo" in world.tokenizer.decode(world.cluster.requests()[0].tokens)


async def test_a_final_message_can_be_continued(world: World) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, I"}]
    await world.post("/v1/chat/completions", messages=messages, continue_final_message=True)
    assert world.tokenizer.decode(world.cluster.requests()[0].tokens).endswith("Well, I")


async def test_a_long_prompt_is_tokenised_off_the_loop(world: World) -> None:
    world.cluster.max_model_len = 100_000
    world.cluster.join("prefill-0", "e2")
    world.cluster.join("decode-0", "e2")
    await world.until(lambda: world.service.max_model_len == 100_000)
    reply = (await world.complete("word " * 5000)).json()
    assert reply["usage"]["prompt_tokens"] > 5000
