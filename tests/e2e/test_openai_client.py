"""The official ``openai`` client against `pagewire serve demo`: what OpenAI documents holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from cluster import Cluster
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from pagewire.hub import resolve
from pagewire.text.tokenizer import Tokenizer, load_tokenizer

pytestmark = pytest.mark.e2e

MODEL = "SmolLM2-135M-Instruct"
FRANCE = "What is the capital of France?"
STORY = "Once upon a time"
SPLIT = "Ein naïves 🦜 sagt 日本語:"  # characters that take several tokens


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Whatever the clients did, nothing is held when they have gone."""
    with Cluster("demo") as running:
        yield running
        running.until_nothing_is_held()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve("demo"))


def chat(client: openai.OpenAI, text: str = FRANCE, **body: Any) -> ChatCompletion:
    body = {"model": MODEL, "temperature": 0, "max_tokens": 16} | body
    reply: ChatCompletion = client.chat.completions.create(
        messages=[{"role": "user", "content": text}], **body
    )
    return reply


def streamed_chat(client: openai.OpenAI, text: str = FRANCE, **body: Any) -> list[ChatCompletionChunk]:
    return list(chat(client, text, stream=True, **body))  # type: ignore[arg-type]


def complete(client: openai.OpenAI, prompt: Any = STORY, **body: Any) -> Completion:
    body = {"model": MODEL, "temperature": 0, "max_tokens": 8} | body
    reply: Completion = client.completions.create(prompt=prompt, **body)
    return reply


def streamed(client: openai.OpenAI, prompt: Any = STORY, **body: Any) -> list[Completion]:
    return list(complete(client, prompt, stream=True, **body))  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def story(client: openai.OpenAI) -> str:
    """How STORY goes on."""
    return complete(client).choices[0].text


def text_of(reply: ChatCompletion, choice: int = 0) -> str:
    return reply.choices[choice].message.content or ""


# --- answers ------------------------------------------------------------------------------------------------


def test_a_question_gets_a_sensible_answer(client: openai.OpenAI) -> None:
    reply = chat(client, max_tokens=32)
    (choice,) = reply.choices
    assert "Paris" in text_of(reply)
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert (reply.object, reply.model) == ("chat.completion", MODEL)


def test_a_streamed_chat_is_the_whole_one_with_its_usage_at_the_end(client: openai.OpenAI) -> None:
    whole = chat(client)
    *chunks, last = streamed_chat(client, stream_options={"include_usage": True})
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text_of(whole)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert [c.usage for c in chunks] == [None] * len(chunks)
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_streamed_completion_is_the_whole_one(client: openai.OpenAI, story: str) -> None:
    parts = streamed(client)
    assert story
    assert "".join(part.choices[0].text for part in parts) == story
    assert parts[-1].choices[0].finish_reason == "length"


def test_a_story_of_half_characters_is_streamed_whole(client: openai.OpenAI) -> None:
    prompt = "🦜 日本語 🦜 日本語 🦜 日本語 🦜"
    parts = [part.choices[0].text for part in streamed(client, prompt)]
    assert "".join(parts) == complete(client, prompt).choices[0].text
    assert len([part for part in parts if part]) > 1


# --- log-probabilities --------------------------------------------------------------------------------------


def likely(values: list[float]) -> bool:
    """True if they may be the log-probabilities of different tokens in one place."""
    return all(value <= 1e-6 for value in values) and math.fsum(map(math.exp, values)) <= 1 + 1e-4


def test_logprobs_of_a_chat(client: openai.OpenAI) -> None:
    reply = chat(client, logprobs=True, top_logprobs=5, max_tokens=6)
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    assert len(content) == 6
    assert bytes(byte for entry in content for byte in entry.bytes or []).decode() == text_of(reply)
    for entry in content:
        assert len(entry.top_logprobs) == 5
        assert likely([top.logprob for top in entry.top_logprobs])
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs)


def test_streamed_logprobs_of_a_chat_are_those_of_the_whole(client: openai.OpenAI) -> None:
    body = {"logprobs": True, "top_logprobs": 2, "max_tokens": 6}
    whole = chat(client, **body).choices[0].logprobs
    parts = [chunk.choices[0].logprobs for chunk in streamed_chat(client, **body)]
    assert whole is not None
    assert whole.content
    assert [(e.token, e.logprob) for part in parts if part for e in part.content or []] == [
        (entry.token, pytest.approx(entry.logprob, abs=1e-4)) for entry in whole.content
    ]


def test_logprobs_of_a_completion(client: openai.OpenAI) -> None:
    (choice,) = complete(client, logprobs=5).choices
    found = choice.logprobs
    assert found is not None
    assert found.tokens
    assert found.token_logprobs
    assert found.top_logprobs
    assert found.text_offset
    assert len(found.tokens) == 8
    assert "".join(found.tokens) == choice.text
    for token, value, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert likely(list(top.values()))
        assert top[token] == value == max(top.values())
    assert all(map(choice.text.startswith, found.tokens, found.text_offset))


def test_a_sampled_token_need_not_be_the_likeliest(client: openai.OpenAI) -> None:
    reply = chat(client, temperature=2, seed=3, logprobs=True, top_logprobs=1, max_tokens=12)
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    assert any(entry.logprob < entry.top_logprobs[0].logprob for entry in content)
    assert all(entry.logprob <= entry.top_logprobs[0].logprob for entry in content)


# --- choices, seeds, ends -----------------------------------------------------------------------------------


def test_two_choices_differ_and_a_seed_repeats_them(client: openai.OpenAI) -> None:
    first, again = (
        chat(client, "Tell me a story.", n=2, temperature=1, seed=7, max_tokens=8) for _ in range(2)
    )
    texts = [text_of(first, choice) for choice in range(2)]
    assert texts[0] != texts[1]
    assert [text_of(again, choice) for choice in range(2)] == texts
    assert [choice.index for choice in first.choices] == [0, 1]
    assert first.usage is not None
    assert first.usage.completion_tokens == 16  # of both


def test_streamed_choices_are_those_of_the_whole(client: openai.OpenAI) -> None:
    body = {"n": 2, "temperature": 1, "seed": 7}
    texts = ["", ""]
    for chunk in streamed(client, **body):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in complete(client, **body).choices]


def test_a_seed_repeats_and_another_does_not(client: openai.OpenAI) -> None:
    texts = [complete(client, temperature=1.2, seed=seed).choices[0].text for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    assert (
        complete(client, temperature=1.5).choices[0].text != complete(client, temperature=1.5).choices[0].text
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_where_the_text_ends(client: openai.OpenAI, story: str, stream: bool) -> None:
    stop = story[len(story) // 2 : len(story) // 2 + 3]
    body = {"stop": ["never said", stop]}
    parts = streamed(client, **body) if stream else [complete(client, **body)]
    assert "".join(part.choices[0].text for part in parts) == story[: story.index(stop)]
    assert parts[-1].choices[0].finish_reason == "stop"


def test_a_stop_string_ends_its_own_choice_and_no_other(client: openai.OpenAI) -> None:
    body = {"n": 3, "temperature": 1, "seed": 7}
    whole = [choice.text for choice in complete(client, **body).choices]
    stop = next(
        whole[1][at : at + 4] for at in range(8, 99) if whole[1][at : at + 4] not in whole[0] + whole[2]
    )
    cut = complete(client, stop=stop, **body).choices
    assert [choice.text for choice in cut] == [whole[0], whole[1].partition(stop)[0], whole[2]]
    assert cut[1].finish_reason == "stop"


def test_max_tokens_ends_for_length(client: openai.OpenAI) -> None:
    old = complete(client, max_tokens=3)
    new = chat(client, max_tokens=openai.NOT_GIVEN, max_completion_tokens=3)
    assert [old.choices[0].finish_reason, new.choices[0].finish_reason] == ["length", "length"]
    assert old.usage is not None
    assert new.usage is not None
    assert old.usage.completion_tokens == new.usage.completion_tokens == 3


# --- usage and prompts --------------------------------------------------------------------------------------


def test_a_prompt_that_was_read_before_is_told_as_cached(client: openai.OpenAI) -> None:
    prompt = "A long list of numbers: " + " ".join(map(str, range(120)))
    used = [complete(client, prompt, max_tokens=2).usage for _ in range(2)]
    cached = [u.prompt_tokens_details.cached_tokens for u in used if u and u.prompt_tokens_details]
    assert used[1] is not None
    assert cached[0] == 0
    assert 200 < (cached[1] or 0) <= used[1].prompt_tokens
    assert used[1].total_tokens == used[1].prompt_tokens + 2


def test_echo_and_the_logprobs_of_the_prompt(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    (choice,) = complete(client, SPLIT, echo=True, logprobs=2, max_tokens=4).choices
    count = len(tokenizer.encode(SPLIT))
    found = choice.logprobs
    assert choice.text.startswith(SPLIT)
    assert found is not None
    assert found.tokens
    assert found.text_offset
    assert found.token_logprobs
    assert len(found.tokens) == count + 4
    assert found.token_logprobs[0] is None
    assert all(value <= 1e-6 for value in found.token_logprobs[1:])
    assert found.text_offset[count] == len(SPLIT)
    whole = [(at, t) for at, t in zip(found.text_offset, found.tokens, strict=True) if "\ufffd" not in t]
    assert all(choice.text.startswith(token, at) for at, token in whole)
    assert complete(client, SPLIT, max_tokens=4).choices[0].text == choice.text.removeprefix(SPLIT)


def test_echo_of_a_prompt_alone(client: openai.OpenAI) -> None:
    (choice,) = complete(client, STORY, echo=True, logprobs=0, max_tokens=0).choices
    assert choice.text == STORY
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == STORY


def test_token_ids_are_the_same_prompt_as_their_text(
    client: openai.OpenAI, tokenizer: Tokenizer, story: str
) -> None:
    assert complete(client, tokenizer.encode(STORY)).choices[0].text == story


def test_several_prompts_are_answered_each_as_if_alone(
    client: openai.OpenAI, tokenizer: Tokenizer, story: str
) -> None:
    texts = [STORY, "The sea is"]
    alone = [story, complete(client, texts[1]).choices[0].text]
    assert [choice.text for choice in complete(client, texts).choices] == alone
    ids = [tokenizer.encode(text) for text in texts]
    assert [choice.text for choice in complete(client, ids).choices] == alone


def test_the_timeline_names_two_processes(client: openai.OpenAI, cluster: Cluster) -> None:
    timing = (chat(client, extra_body={"timing": True}).model_extra or {})["timing"]
    pids = [timing[role]["pid"] for role in ("prefill", "decode")]
    assert pids == [cluster.pid("prefill-0"), cluster.pid("decode-0")]
    assert pids[0] != pids[1]
    assert 0 < timing["ttft_ms"] <= timing["total_ms"]


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "pagewire"


# --- refusals -----------------------------------------------------------------------------------------------


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9") as caught:
        chat(client, model="gpt-9")
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (
        404,
        "model_not_found",
        "model",
    )
    assert caught.value.request_id


def test_a_prompt_that_is_too_long_is_told_the_numbers(client: openai.OpenAI) -> None:
    limit = client.models.retrieve(MODEL).model_extra["max_model_len"]  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match=rf"\b{limit + 5}\b.*\b{limit}\b") as caught:
        complete(client, [1000] * (limit + 5))
    assert (caught.value.status_code, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"temperature": "hot"}, {"n": 0}, {"top_p": 7}, {"stop": ["x" * 1025]}],
    ids=lambda body: ascii(body)[:30],
)
def test_a_wrong_field_is_a_bad_request(client: openai.OpenAI, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **wrong)
    assert caught.value.param == next(iter(wrong))


def test_a_stream_refused_at_the_door_is_an_exception_too(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        streamed_chat(client, temperature=-1)


def test_a_stream_that_is_closed_early_frees_the_nodes(client: openai.OpenAI, cluster: Cluster) -> None:
    stream: Any = complete(client, stream=True, max_tokens=400, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    cluster.until_nothing_is_held()
