"""Rows of vLLM's fields, where OpenAI has none."""

from __future__ import annotations

from conformance.rows import HI, STORY, Server, accepted, refused, row
from conformance.stream_rows import chunks

CHAT = {"path": "/v1/chat/completions", "messages": HI}


@row("vLLM's", "top_k", "of the k likeliest tokens", "1 is greedy; 0 and -1 mean all")
def top_k(server: Server) -> None:
    assert server.text(temperature=1.5, extra_body={"top_k": 1}) == server.text()


@row("vLLM's", "min_p", "tokens at least so likely beside the likeliest", "1 is greedy")
def min_p(server: Server) -> None:
    assert server.text(temperature=1.5, extra_body={"min_p": 1.0}) == server.text()


@row("vLLM's", "repetition_penalty", "above 1: fewer repetitions", "as documented")
def repetition_penalty(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Repeat: la la la la"}], "max_tokens": 24}
    assert server.text(extra_body={"repetition_penalty": 1.8}, **body) != server.text(**body)


@row("vLLM's", "min_tokens, ignore_eos", "no end before", "as documented")
def min_tokens(server: Server) -> None:
    body = {"max_tokens": 40, "extra_body": {"ignore_eos": True}}
    assert server.chat(**body).usage.completion_tokens == 40
    assert server.chat(max_tokens=40, extra_body={"min_tokens": 40}).usage.completion_tokens == 40


@row("vLLM's", "stop_token_ids", "tokens that end a choice", "stop_reason is the token")
def stop_token_ids(server: Server) -> None:
    first = server.raw_chat(temperature=0, return_token_ids=True).json()["choices"][0]["token_ids"]
    found = server.raw_chat(temperature=0, stop_token_ids=[first[1]]).json()["choices"][0]
    assert (found["finish_reason"], found["stop_reason"]) == ("stop", first[1])


@row("vLLM's", "include_stop_str_in_output", "the stop string stays", "as documented")
def include_stop(server: Server) -> None:
    whole = server.text(max_tokens=8)
    said = server.text(max_tokens=8, stop=whole[4:6], extra_body={"include_stop_str_in_output": True})
    assert said.endswith(whole[4:6])


@row("vLLM's", "skip_special_tokens", "default true", "false shows them")
def skip_special_tokens(server: Server) -> None:
    body = {"prompt": "<|im_start|>user\nHi<|im_end|>\n", "max_tokens": 1}
    said = [
        server.complete(extra_body={"skip_special_tokens": skip}, **body).choices[0].text
        for skip in (True, False)
    ]
    assert said == ["", "<|im_start|>"]


@row("vLLM's", "prompt_logprobs", "null, then for each token by id", "rank is null beyond those asked for")
def prompt_logprobs(server: Server) -> None:
    body = {"prompt": STORY, "max_tokens": 1, "prompt_logprobs": 2}
    first, *others = server.http.post("/v1/completions", json=body).json()["choices"][0]["prompt_logprobs"]
    tokens = server.http.post("/tokenize", json={"prompt": STORY}).json()["tokens"]
    assert first is None
    assert len(others) == len(tokens) - 1
    for token, entry in zip(tokens[1:], others, strict=True):
        assert entry[str(token)].keys() == {"logprob", "rank", "decoded_token"}
        assert {1, 2} <= {found["rank"] for found in entry.values()}
    chat = server.raw_chat(prompt_logprobs=0).json()
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]


refused("vLLM's", "prompt_logprobs", "not with stream", "with stream", **CHAT, prompt_logprobs=1, stream=True)


@row("vLLM's", "return_token_ids", "token_ids in choices", "as documented")
def return_token_ids(server: Server) -> None:
    ids = server.raw_chat(temperature=0, return_token_ids=True).json()["choices"][0]["token_ids"]
    assert server.http.post("/detokenize", json={"tokens": ids}).json()["prompt"] == server.text()


@row("vLLM's", "cache_salt", "a prefix cache of its own", "nothing is shared with another salt")
def cache_salt(server: Server) -> None:
    text = "A prompt that is long enough to be kept for the next one who asks the same. " * 3
    cached = [
        server.complete(
            prompt=text, extra_body={"cache_salt": salt}
        ).usage.prompt_tokens_details.cached_tokens
        for salt in ("one", "two", "one")
    ]
    assert cached[0] == cached[1] == 0
    assert cached[2] > 16


accepted("vLLM's", "priority", "who goes first", "a whole number; changes no text", priority=1)


@row("vLLM's", "add_generation_prompt, continue_final_message", "how a chat is left open", "as documented")
def continue_final_message(server: Server) -> None:
    messages = [*HI, {"role": "assistant", "content": "Once upon a"}]
    body = {"add_generation_prompt": False, "continue_final_message": True}
    assert server.text(messages=messages, extra_body=body).startswith(" ")


@row(
    "vLLM's",
    "chat_template_kwargs",
    "variables of the template",
    "enable_thinking, thinking, reasoning_effort",
)
def chat_template_kwargs(server: Server) -> None:
    assert server.text(extra_body={"chat_template_kwargs": {"enable_thinking": False}}) == server.text()


refused("vLLM's", "chat_template_kwargs", "variables of the template", "others", **CHAT,
        chat_template_kwargs={"messages": "x"})  # fmt: skip
refused(
    "vLLM's",
    "chat_template",
    "another template",
    "clients bring no programs",
    **CHAT,
    chat_template="{{ x }}",
)
refused("vLLM's", "echo", "the last message before the answer", "completions have it", **CHAT, echo=True)
refused("vLLM's", "allowed_token_ids", "no other tokens", "not served", **CHAT, allowed_token_ids=[5])
refused("vLLM's", "bad_words", "never these words", "not served", **CHAT, bad_words=["x"])
refused("vLLM's", "use_beam_search", "beam search", "not served", **CHAT, use_beam_search=True)
refused("vLLM's", "truncate_prompt_tokens", "keep the end of a prompt", "long prompts are refused", **CHAT,
        truncate_prompt_tokens=5)  # fmt: skip
refused("vLLM's", "logits_processors", "programs for the sampler", "clients bring no programs", **CHAT,
        logits_processors=["x"])  # fmt: skip
refused("vLLM's", "kv_transfer_params", "how KV travels", "the router decides", **CHAT,
        kv_transfer_params={"do_remote_decode": True})  # fmt: skip


@row("vLLM's", "/tokenize, /detokenize", "token ids of a text or a chat, and back", "as documented")
def tokenize(server: Server) -> None:
    found = server.http.post("/tokenize", json={"prompt": "Hello there", "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert server.http.post("/detokenize", json={"tokens": found["tokens"]}).json()["prompt"] == "Hello there"
    chat = server.http.post("/tokenize", json={"messages": HI}).json()
    assert chat["count"] == server.chat().usage.prompt_tokens


@row("vLLM's", "timing", "pagewire's own", "where the time went, and which nodes served")
def timing(server: Server) -> None:
    assert chunks(server, timing=True)[-1]["timing"]["prefill"]["node"] == "prefill-0"
