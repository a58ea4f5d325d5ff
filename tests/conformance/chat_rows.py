"""Rows of ``/v1/chat/completions``: what may be sent, and what comes back."""

from __future__ import annotations

import math

from conformance.rows import HI, MODEL, Server, accepted, refused, row
from openai.types.chat import ChatCompletion

STRANGE = [{"role": "user", "content": "Tell me a story."}]


@row(
    "chat",
    "reply",
    "id, object, created, model, choices, usage, system_fingerprint",
    "all, in the client's types",
)
def reply(server: Server) -> None:
    found = ChatCompletion.model_validate_json(server.raw_chat().content, strict=True)
    assert found.id.startswith("chatcmpl-")
    assert found.object == "chat.completion"
    assert found.model == MODEL
    assert (found.system_fingerprint or "").startswith("fp_")
    assert found.usage is not None
    message = found.choices[0].message
    assert (message.role, message.refusal, message.annotations) == ("assistant", None, [])


@row(
    "chat",
    "usage",
    "prompt, completion and total tokens, with details",
    "cached and reasoning tokens as details",
)
def usage(server: Server) -> None:
    used = server.chat().usage
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens
    assert used.completion_tokens == 4
    assert 0 <= used.prompt_tokens_details.cached_tokens <= used.prompt_tokens
    assert used.completion_tokens_details.reasoning_tokens == 0


@row("chat", "messages[].role", "system, developer, user, assistant, tool", "developer is told as system")
def roles(server: Server) -> None:
    said = [
        server.text(messages=[{"role": role, "content": "Speak French."}, *HI], max_tokens=8)
        for role in ("system", "developer")
    ]
    assert said[0] == said[1]


@row("chat", "messages[].content", "a text, or text parts", "both; parts are joined by a line break")
def content(server: Server) -> None:
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    joined = server.text(messages=[{"role": "user", "content": "Say\nhello."}])
    assert server.text(messages=[{"role": "user", "content": parts}]) == joined


refused(
    "chat", "messages[0].content[0]", "image, audio and file parts", "the model reads text",
    messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
)  # fmt: skip
refused("chat", "messages", "at least one", "an empty list", messages=[])


@row("chat", "model", "which model answers", "one of the served names; left out: the first")
def model(server: Server) -> None:
    assert server.raw_chat().json()["model"] == MODEL


@row(
    "chat",
    "max_completion_tokens",
    "upper bound of generated tokens",
    "counted exactly; finish_reason length",
)
def max_completion_tokens(server: Server) -> None:
    found = server.raw_chat(max_tokens=None, max_completion_tokens=3).json()
    assert found["usage"]["completion_tokens"] == 3
    assert found["choices"][0]["finish_reason"] == "length"


@row("chat", "max_tokens", "deprecated: max_completion_tokens", "taken; max_completion_tokens outranks it")
def max_tokens(server: Server) -> None:
    assert server.chat(max_tokens=9, max_completion_tokens=2).usage.completion_tokens == 2


@row("chat", "n", "how many choices", "1 to 16, each with its index")
def n(server: Server) -> None:
    assert [choice.index for choice in server.chat(n=3).choices] == [0, 1, 2]


@row("chat", "temperature", "0 to 2, default 1", "0 is greedy; up to 100 as vLLM")
def temperature(server: Server) -> None:
    assert len({server.text() for _ in range(2)}) == 1
    assert len({server.text(temperature=1.8, messages=STRANGE, max_tokens=8) for _ in range(3)}) > 1


@row("chat", "top_p", "nucleus sampling, above 0 up to 1", "a nucleus of one token is greedy")
def top_p(server: Server) -> None:
    assert server.text(temperature=1.5, top_p=1e-6) == server.text()


@row("chat", "seed", "the same answer again, best effort", "the same answer again, always")
def seed(server: Server) -> None:
    said = [server.text(temperature=1.5, seed=seed, messages=STRANGE, max_tokens=8) for seed in (7, 7, 8)]
    assert said[0] == said[1] != said[2]


@row("chat", "stop", "up to 4 strings, not in the text", "up to 16; stop_reason says which, as vLLM")
def stop(server: Server) -> None:
    whole = server.text(max_tokens=8)
    (choice,) = server.chat(max_tokens=8, stop=["never", whole[4:6]]).choices
    assert choice.message.content == whole[: whole.index(whole[4:6])]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", whole[4:6])


@row("chat", "frequency_penalty", "-2 to 2", "as documented")
def frequency_penalty(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Repeat: la la la la"}], "max_tokens": 24}
    assert server.text(frequency_penalty=2, **body) != server.text(**body)


@row("chat", "presence_penalty", "-2 to 2", "as documented")
def presence_penalty(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Repeat: la la la la"}], "max_tokens": 24}
    assert server.text(presence_penalty=2, **body) != server.text(**body)


@row("chat", "logit_bias", "token id to -100..100", "as documented; at most 1,024 tokens")
def logit_bias(server: Server) -> None:
    token = server.http.post("/tokenize", json={"prompt": " yes"}).json()["tokens"][0]
    assert server.text(logit_bias={str(token): 100}, max_tokens=2) == " yes yes"


@row("chat", "logprobs, top_logprobs", "of each token and of up to 20 likely ones", "with their bytes")
def logprobs(server: Server) -> None:
    found = server.chat(logprobs=True, top_logprobs=3).choices[0]
    assert len(found.logprobs.content) == 4
    for entry in found.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob  # greedy
        assert math.fsum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1 + 1e-4
    said = b"".join(bytes(entry.bytes) for entry in found.logprobs.content)
    assert said.decode() == found.message.content


refused("chat", "top_logprobs", "needs logprobs", "without logprobs", top_logprobs=2)
accepted("chat", "user", "who asks", "taken; changes nothing", user="somebody")
accepted("chat", "safety_identifier, prompt_cache_key", "who asks", "ignored", prompt_cache_key="x")
accepted(
    "chat", "metadata", "16 texts of up to 512 characters", "taken; nothing is stored", metadata={"a": "b"}
)
refused("chat", "metadata", "16 texts of up to 512 characters", "anything larger", metadata={"a": "b" * 513})
accepted("chat", "store", "whether it is stored", "false is taken", store=False)
refused("chat", "store", "whether it is stored", "nothing is stored", store=True)
accepted(
    "chat", "service_tier", "auto, default, flex, ...", "auto and default are taken", service_tier="auto"
)
refused("chat", "service_tier", "auto, default, flex, ...", "there is one tier", service_tier="flex")
accepted(
    "chat",
    "reasoning_effort",
    "none to xhigh",
    "told to the template; none: no thinking",
    reasoning_effort="low",
)
refused("chat", "reasoning_effort", "none to xhigh", "another word", reasoning_effort="gigantic")
accepted("chat", "verbosity", "low, medium, high", "medium is taken", verbosity="medium")
refused("chat", "verbosity", "low, medium, high", "low and high", verbosity="low")
accepted("chat", "modalities", "text, audio", "text is taken", modalities=["text"])
refused("chat", "modalities", "text, audio", "audio", modalities=["text", "audio"])
refused("chat", "audio", "how audio is to be", "the model writes text", audio={"voice": "x", "format": "wav"})
refused("chat", "prediction", "text that is likely to come", "not served", prediction={"type": "content"})
refused("chat", "web_search_options", "search the web", "not served", web_search_options={"x": 1})
refused("chat", "functions", "deprecated: tools", "the message says tools", functions=[{"name": "f"}])
refused(
    "chat", "function_call", "deprecated: tool_choice", "the message says so", function_call={"name": "f"}
)
