"""What clients ask of the form of an answer: what nodes are told of it, and what is refused by its path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import World
from hypothesis import given
from hypothesis import strategies as st
from test_http_errors import fault

from pagewire.errors import RequestError
from pagewire.messages import Epoch, Failed, NodeId, RequestId
from pagewire.sampling import Grammar
from router.failures import error_of
from router.schemas import CompletionBody
from router.structured import MAX_CHOICES, MAX_DEPTH, MAX_REGEX, MAX_TEXT, grammar_of, param_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
AS_SCHEMA = Grammar("json_schema", TEXT)
OBJECT = Grammar("json_schema", '{"type":"object"}')
OF_FORMAT = "response_format.json_schema.schema"


def body(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate({"prompt": "x", **fields})


def response_format(**fields: Any) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA} | fields}
    }


@pytest.mark.parametrize(
    ("fields", "grammar", "param"),
    [
        (response_format(), AS_SCHEMA, "response_format.json_schema.schema"),
        (response_format(strict=True), AS_SCHEMA, "response_format.json_schema.schema"),
        (response_format(strict=None, description="d"), AS_SCHEMA, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}}, OBJECT, "response_format"),
        ({"structured_outputs": {"json": SCHEMA}}, AS_SCHEMA, "structured_outputs.json"),
        ({"structured_outputs": {"json": TEXT, "regex": None}}, AS_SCHEMA, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a+"}}, Grammar("regex", "a+"), "structured_outputs.regex"),
        ({"structured_outputs": {"json_object": True}}, OBJECT, "structured_outputs.json_object"),
        ({"structured_outputs": {"choice": ["a", 'b"'], "json_object": False}},
         Grammar("lark", 'start: "a" | "b\\""'), "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "start: x"}}, Grammar("lark", "start: x"),
         "structured_outputs.grammar"),
        ({"guided_json": SCHEMA}, AS_SCHEMA, "guided_json"),
        ({"guided_json": TEXT}, AS_SCHEMA, "guided_json"),
        ({"guided_regex": "a+"}, Grammar("regex", "a+"), "guided_regex"),
        ({"guided_choice": ["a"]}, Grammar("lark", 'start: "a"'), "guided_choice"),
        ({"guided_grammar": "start: x"}, Grammar("lark", "start: x"), "guided_grammar"),
    ],
)  # fmt: skip
def test_every_way_to_ask(fields: dict[str, Any], grammar: Grammar, param: str) -> None:
    assert (grammar_of(body(**fields)), param_of(body(**fields))) == (grammar, param)


@pytest.mark.parametrize("fields", [{}, {"response_format": None}, {"response_format": {"type": "text"}}])
def test_nothing_asked(fields: dict[str, Any]) -> None:
    assert grammar_of(body(**fields)) is None


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = [value]
    return {"enum": value}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (response_format(name=7), "response_format.json_schema.name"),
        (response_format(strict="yes"), "response_format.json_schema.strict"),
        (response_format(schema=None), "response_format.json_schema.schema"),
        (response_format(schema=[1]), "response_format.json_schema.schema"),
        (response_format(schema={"enum": ["x" * MAX_TEXT]}), "response_format.json_schema.schema"),
        (response_format(schema=deep(MAX_DEPTH)), "response_format.json_schema.schema"),
        (response_format(schema=deep(900)), "response_format.json_schema.schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": "yes"}}, "structured_outputs.json_object"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"regex": "a", "whitespace_pattern": " *"}},
         "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs.regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[" * 5000}, "guided_json"),
        ({"guided_json": "3"}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "a" * (MAX_REGEX + 1)}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice"),
        ({"guided_choice": ["a"] * (MAX_CHOICES + 1)}, "guided_choice"),
        ({"guided_choice": ["x" * MAX_TEXT]}, "guided_choice"),
        ({"guided_grammar": ""}, "guided_grammar"),
        ({"guided_grammar": 'root ::= "a"'}, "guided_grammar"),
        ({"guided_grammar": "start: " + "x" * MAX_TEXT}, "guided_grammar"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        grammar_of(body(**fields))
    assert caught.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def outcome(field: str, value: dict[str, Any]) -> str:
    """Where a grammar was found in ``value``, or what is wrong with it; ``field`` if it asks for nothing."""
    try:
        return param_of(body(**{field: value})) if grammar_of(body(**{field: value})) else field
    except RequestError as error:
        return error.param or ""


@given(value=st.dictionaries(st.sampled_from(["type", "json_schema", "json", "choice", "regex"]), JSON))
def test_anything_is_a_grammar_or_an_error_with_a_path(value: dict[str, Any]) -> None:
    for field in ("response_format", "structured_outputs"):
        assert outcome(field, value).startswith(field)


def test_what_became_too_complex_on_a_node_is_the_clients_to_change() -> None:
    failed = Failed(
        NodeId("d"), Epoch("e"), RequestId("r"), 1, "grammar_failed", "it cannot be followed", False
    )
    error = error_of(failed)
    assert isinstance(error, RequestError)
    assert (error.status, error.code, str(error)) == (400, "grammar_failed", "it cannot be followed")


async def test_nodes_are_told(world: World) -> None:
    assert (await world.chat(**response_format())).status_code == 200
    assert world.cluster.requests()[0].sampling.grammar == AS_SCHEMA


async def test_what_does_not_compile_reaches_no_node(world: World) -> None:
    reply = await world.chat(**response_format(schema={"type": "strin"}))
    assert fault(reply) == (400, "invalid_request", "response_format.json_schema.schema")
    assert "strin" in reply.json()["error"]["message"]
    assert world.cluster.requests() == []
