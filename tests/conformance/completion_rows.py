"""Rows of ``/v1/completions``."""

from __future__ import annotations

from conformance.rows import STORY, Server, accepted, refused, row
from openai.types import Completion


@row("completions", "reply", "id, object, created, model, choices, usage", "all, in the client's types")
def reply(server: Server) -> None:
    raw = server.http.post("/v1/completions", json={"prompt": STORY, "max_tokens": 2})
    found = Completion.model_validate_json(raw.content, strict=True)
    assert found.id.startswith("cmpl-")
    assert found.object == "text_completion"
    assert found.choices[0].finish_reason == "length"


@row("completions", "max_tokens", "default 16", "16, or as far as there is room")
def max_tokens(server: Server) -> None:
    found = server.http.post("/v1/completions", json={"prompt": STORY, "ignore_eos": True}).json()
    assert found["usage"]["completion_tokens"] == 16


@row("completions", "prompt", "a text, texts, token ids, or lists of them", "all four")
def prompt(server: Server) -> None:
    ids = server.http.post("/tokenize", json={"prompt": STORY}).json()["tokens"]
    whole = server.complete().choices[0].text
    for given in (ids, [STORY], [ids]):
        assert server.complete(prompt=given).choices[0].text == whole
    both = server.complete(prompt=[STORY, "The sea"]).choices
    assert [choice.index for choice in both] == [0, 1]
    assert both[0].text == whole


refused("completions", "prompt", "required", "an empty list", prompt=[])


@row("completions", "echo", "the prompt before the text", "with its logprobs where they are asked for")
def echo(server: Server) -> None:
    (choice,) = server.complete(echo=True, logprobs=1).choices
    assert choice.text.startswith(STORY)
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert choice.logprobs.text_offset[-1] > len(STORY)


@row("completions", "echo with max_tokens 0", "the prompt alone", "as documented")
def echo_alone(server: Server) -> None:
    found = server.complete(echo=True, max_tokens=0)
    assert found.choices[0].text == STORY
    assert found.usage.completion_tokens == 0


@row("completions", "logprobs", "up to 5 likely tokens", "up to 20, in parallel lists")
def logprobs(server: Server) -> None:
    found = server.complete(logprobs=2).choices[0].logprobs
    lists = found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset
    assert {len(values) for values in lists} == {4}
    assert all(len(top) == 2 for top in found.top_logprobs)


@row("completions", "n", "choices of each prompt", "prompts x n up to 64")
def n(server: Server) -> None:
    found = server.complete(prompt=[STORY, "The sea"], n=2)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]


refused("completions", "suffix", "the text after a gap", "the model fills no gaps", suffix="the end")
accepted("completions", "best_of", "the best of several", "taken if it equals n", best_of=1)
refused("completions", "best_of", "the best of several", "unless it equals n", best_of=3)
refused("completions", "n", "at least 1", "0", n=0)
