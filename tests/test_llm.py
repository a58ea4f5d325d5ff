"""Offline generation with the demo model, as users of vLLM would call it."""

from __future__ import annotations

import pytest

from pagewire import LLM, SamplingParams
from pagewire.errors import PromptTooLong, RequestError

GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", max_model_len=512, kv_cache_bytes=256 << 20)


@pytest.fixture(autouse=True)
def nothing_is_held(llm: LLM) -> object:
    yield
    assert llm.engine.accounts().leased == 0
    assert not llm.engine.busy


def test_it_knows_its_capitals(llm: LLM) -> None:
    (output,) = llm.generate("The capital of France is", GREEDY, use_tqdm=False)
    choice = output.outputs[0]
    assert output.prompt == "The capital of France is"
    assert "Paris" in choice.text
    assert choice.text == llm.get_tokenizer().decode(choice.token_ids)
    assert choice.finish_reason == "length"


def test_chat_renders_the_template_and_ends_at_the_end_token(llm: LLM) -> None:
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    params = SamplingParams(temperature=0, max_tokens=32)
    (output,) = llm.chat(talk, params, use_tqdm=False)
    assert output.outputs[0].text == "The capital of France is Paris."
    assert output.outputs[0].finish_reason == "stop"
    assert llm.chat([talk, talk], params, use_tqdm=False)[1].outputs[0].text == output.outputs[0].text


def test_results_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = [
        "One two three",
        [504, 3575, 282],
        {"prompt_token_ids": [504]},
        "A longer prompt, of a few more words",
    ]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert [o.prompt for o in outputs] == ["One two three", None, None, prompts[3]]
    assert outputs[1].prompt_token_ids == [504, 3575, 282]
    assert (
        outputs[2].outputs[0].token_ids
        == llm.generate([[504]], GREEDY, use_tqdm=False)[0].outputs[0].token_ids
    )


def test_each_prompt_may_have_its_own_parameters(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=k) for k in (1, 5)]
    outputs = llm.generate(["Hello", "Hello"], params, use_tqdm=False)
    assert [len(o.outputs[0].token_ids) for o in outputs] == [1, 5]


def test_choices_differ_and_a_seed_repeats_them(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, n=3, seed=5, max_tokens=12)
    first, second = (llm.generate("Once upon a time", params, use_tqdm=False)[0] for _ in range(2))
    texts = [choice.text for choice in first.outputs]
    assert len(set(texts)) == 3
    assert texts == [choice.text for choice in second.outputs]


def test_a_stop_string_ends_one_choice_and_frees_it(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=64, stop=("Paris",))
    choice = llm.generate("The capital of France is", params, use_tqdm=False)[0].outputs[0]
    assert "Paris" not in choice.text
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "Paris")
    assert len(choice.token_ids) < 64


def test_logprobs_hold_the_chosen_token_and_the_likeliest(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=3, prompt_logprobs=1)
    output = llm.generate("The capital of France is", params, use_tqdm=False)[0]
    choice = output.outputs[0]
    assert choice.logprobs is not None
    for token, entry in zip(choice.token_ids, choice.logprobs, strict=True):
        assert entry[token].rank == 1
        assert len(entry) == 3
    assert choice.cumulative_logprob == pytest.approx(
        sum(e[t].logprob for t, e in zip(choice.token_ids, choice.logprobs, strict=True))
    )
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)


def test_a_second_asking_finds_its_prefix(llm: LLM) -> None:
    prompt = "word " * 100
    first, second = (llm.generate(prompt, GREEDY, use_tqdm=False)[0] for _ in range(2))
    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens >= 80
    assert first.outputs[0].token_ids == second.outputs[0].token_ids


def test_progress_goes_to_the_terminal(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["Hello", "World"], SamplingParams(max_tokens=1))
    assert "2/2" in capsys.readouterr().err


def test_one_bad_prompt_stops_all_before_any_work(llm: LLM) -> None:
    steps = llm.engine.steps
    with pytest.raises(PromptTooLong, match="600 tokens"):
        llm.generate(["Hello", [7] * 600], GREEDY, use_tqdm=False)
    with pytest.raises(RequestError, match="must be ids in"):
        llm.generate(["Hello", [49152]], GREEDY, use_tqdm=False)
    with pytest.raises(RequestError, match="sampling_params for 2 prompts"):
        llm.generate(["Hello", "World"], [GREEDY], use_tqdm=False)
    with pytest.raises(RequestError, match="empty"):
        llm.generate([[]], GREEDY, use_tqdm=False)
    assert llm.engine.steps == steps
