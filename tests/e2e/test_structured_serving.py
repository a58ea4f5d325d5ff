"""Structured output of the demo model over HTTP: valid, the same on one engine, and through a lost node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from alphabet import RECORD, schema
from cluster import Cluster
from jsonschema import Draft202012Validator

from benchmarks.structured_cases import growing
from pagewire import LLM, SamplingParams

pytestmark = pytest.mark.e2e

ASK = [{"role": "user", "content": "Make up a person as JSON."}]
LARGE = growing(20)[-1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("demo", "--decode", "2") as running:
        yield running
        running.until_nothing_is_held()


def ask(client: openai.OpenAI, wanted: dict[str, Any], **body: Any) -> Any:
    """``wanted`` is a JSON schema."""
    form = {"type": "json_schema", "json_schema": {"name": "record", "schema": wanted, "strict": True}}
    return client.chat.completions.create(
        model="SmolLM2-135M-Instruct",
        messages=ASK,  # type: ignore[arg-type]
        response_format=form,  # type: ignore[arg-type]
        **{"max_tokens": 600, "temperature": 0.9, "seed": 11} | body,
    )


@pytest.fixture(scope="module")
def colocated() -> dict[str, list[str]]:
    """Texts of the choices on one engine, by schema."""
    llm, found = LLM("demo"), {}
    for name, wanted, n in (("record", RECORD, 3), ("large", LARGE, 1)):
        params = SamplingParams(max_tokens=600, temperature=0.9, seed=11, n=n, grammar=schema(wanted))
        (output,) = llm.chat(ASK, params, use_tqdm=False)
        found[name] = [choice.text for choice in output.outputs]
    return found


def test_choices_are_valid_and_those_of_one_engine(
    client: openai.OpenAI, colocated: dict[str, list[str]]
) -> None:
    choices = ask(client, RECORD, n=3).choices
    assert [choice.message.content for choice in choices] == colocated["record"]
    for choice in choices:
        assert choice.finish_reason == "stop"
        Draft202012Validator(RECORD).validate(json.loads(choice.message.content))


def test_a_stream_that_loses_its_node_goes_on_in_its_form(
    cluster: Cluster, client: openai.OpenAI, colocated: dict[str, list[str]]
) -> None:
    text, killed = "", False
    stream = ask(client, LARGE, stream=True)
    writes = re.search("decode=([^;]+);", stream.response.headers["x-pagewire-served-by"])
    assert writes is not None
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if len(text) > 80 and not killed:
            cluster.kill(writes[1])
            killed = True
    assert killed
    assert [text] == colocated["large"]
    Draft202012Validator(LARGE).validate(json.loads(text))


def test_a_schema_that_is_none_is_refused_with_its_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, {"type": "strin"})
    assert caught.value.param == "response_format.json_schema.schema"


def test_one_of_some_words(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="SmolLM2-135M-Instruct", prompt="The sky is", extra_body={"guided_choice": ["blue", "green"]}
    )
    assert reply.choices[0].text in ("blue", "green")
    assert reply.choices[0].finish_reason == "stop"
