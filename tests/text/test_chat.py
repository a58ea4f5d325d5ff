"""Chat templates: against transformers, and what clients may not do with them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from pagewire.errors import ModelError, RequestError
from pagewire.text import chat
from pagewire.text.chat import render
from pagewire.text.tokenizer import Tokenizer

HEADERS = """{{- bos_token }}
{%- for m in messages %}
    {%- if m.role not in ['system', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('no such role: ' ~ m.role) }}
    {%- endif %}
    {{- '<|h|>' + m['role'] + '<|/h|>\n\n' + m['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|h|>assistant<|/h|>\n\n' }}{%- endif %}
"""
TOOLS = """{% if tools %}
# Tools
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
{% endif %}
{% set ns = namespace(last=-1) %}
{% for m in messages %}
    {% if m.role == 'system' %}{% continue %}{% endif %}
    {% set ns.last = loop.index0 %}
<{{ m.role }}>{% generation %}{{ m.content or '' }}{% endgeneration %}

    {% for call in m.tool_calls or [] %}
call {{ call.function.name }} {{ call.function.arguments | tojson(indent=1) }}
    {% endfor %}
{% endfor %}
{{ ns.last }}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{% if add_generation_prompt %}<assistant>{% endif %}"""
TALK = [
    {"role": "system", "content": "  Be brief.\n"},
    {"role": "user", "content": "Grüße <b>&amp; 'quotes' 😀"},
    {"role": "assistant", "content": "Hello  "},
]
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "日本 <x>", "parameters": {"b": 1, "a": 2}},
}


class Templates:
    """A model with one template, or several by name."""

    def __init__(self, default: str, **named: str) -> None:
        self.chat_templates = {"default": default, **named}
        self.special_names = {"bos_token": "<s>", "eos_token": "</s>"}


def oracle(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    rendered, _ = render_jinja_template(
        [messages], chat_template=source, bos_token="<s>", eos_token="</s>", **options
    )
    text: str = rendered[0]
    return text


@pytest.mark.parametrize("source", ["demo", HEADERS, TOOLS])
@pytest.mark.parametrize("prompt", [True, False])
def test_renders_as_transformers(demo: Tokenizer, source: str, prompt: bool) -> None:
    source = demo.chat_templates["default"] if source == "demo" else source
    expected = oracle(source, TALK, add_generation_prompt=prompt)
    assert render(Templates(source), TALK, add_generation_prompt=prompt) == expected


@pytest.mark.parametrize("source", ["demo", HEADERS, TOOLS])
@pytest.mark.parametrize("end", ["Once upon", "trailing \n", ""])
def test_continues_the_final_message_as_transformers(demo: Tokenizer, source: str, end: str) -> None:
    source = demo.chat_templates["default"] if source == "demo" else source
    talk = [*TALK[:2], {"role": "assistant", "content": end}]
    expected = oracle(source, talk, continue_final_message=True)
    ours = render(Templates(source), talk, add_generation_prompt=False, continue_final_message=True)
    assert ours == expected


def test_tools_and_calls_as_transformers() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"é": [1, "<"]}}}
    talk = [*TALK[:2], {"role": "assistant", "content": None, "tool_calls": [call]}]
    options: dict[str, Any] = {"add_generation_prompt": True, "tools": [TOOL]}
    assert render(Templates(TOOLS), talk, **options) == oracle(TOOLS, talk, **options)


def test_arguments_of_a_call_may_be_json_in_a_string() -> None:
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    text = render(Templates(TOOLS), [{"role": "assistant", "tool_calls": [call]}])
    assert 'call f {\n "a": 1\n}' in text


def test_template_kwargs_reach_the_template() -> None:
    text = render(Templates(TOOLS), TALK, template_kwargs={"enable_thinking": False})
    assert "<think></think>" in text


def test_template_kwargs_do_not_replace_the_messages() -> None:
    text = render(Templates("{{ messages[0].content }}"), TALK[1:], template_kwargs={"messages": []})
    assert text == TALK[1]["content"]


def test_tools_choose_their_own_template() -> None:
    templates = Templates("plain", tool_use="tools")
    assert (render(templates, TALK), render(templates, TALK, tools=[TOOL])) == ("plain", "tools")


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render(Templates("{{ messages[0].content }}"), [{"role": "user", "content": parts}]) == "one\ntwo"


def test_the_callers_messages_are_left_alone() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "one"}]}
    render(Templates("x"), [message])
    assert message == {"role": "user", "content": [{"type": "text", "text": "one"}]}


def test_time_is_there() -> None:
    assert render(Templates("{{ strftime_now('%Y') }}"), TALK).isdigit()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one message"),
        ("hi", "at least one message"),
        (["hi"], r"messages\[0\] must be an object"),
        ([{"content": "hi"}], "with a role"),
        ([{"role": "user", "content": 1}], r"messages\[0\]\.content must be text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\] is not a text part"),
        ([{"role": "user", "content": ["hi"]}], "not a text part"),
        ([{"role": "user", "tool_calls": {"a": 1}}], "must be a list"),
        ([{"role": "user", "tool_calls": ["f"]}], "with a function"),
        ([{"role": "user", "tool_calls": [{"function": {"arguments": "{"}}]}], "is not JSON"),
        ([{"role": "root", "content": "hi"}], "no such role: root"),
    ],
)
def test_bad_messages_are_the_clients_fault(messages: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        render(Templates(HEADERS), messages)


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": None}])
def test_a_message_that_the_template_cannot_take(demo: Tokenizer, message: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="cannot render"):
        render(demo, [message])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ 1 + 'a' }}",
        "{{ messages[0].nothing.more }}",
    ],
)
def test_a_template_that_breaks_ends_as_a_request_error(source: str) -> None:
    with pytest.raises(RequestError, match="cannot render"):
        render(Templates(source), TALK)


def test_what_is_rendered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_CHARS", 100)
    with pytest.raises(RequestError, match="too long"):
        render(Templates("{% for i in range(1000) %}{{ i }} {% endfor %}"), TALK)


def test_a_model_without_a_template() -> None:
    templates = Templates("x")
    templates.chat_templates.clear()
    with pytest.raises(RequestError, match="no chat template"):
        render(templates, TALK)


def test_a_template_that_is_not_jinja_is_the_models_fault() -> None:
    with pytest.raises(ModelError, match="not valid jinja"):
        render(Templates("{% if %}"), TALK)


@pytest.mark.parametrize(
    ("source", "talk", "message"),
    [
        ("nothing", TALK, "does not show the final message"),
        (HEADERS, [{"role": "assistant", "content": None}], "no text to continue"),
    ],
)
def test_what_cannot_be_continued(source: str, talk: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        render(Templates(source), talk, add_generation_prompt=False, continue_final_message=True)


def test_continuing_excludes_a_generation_prompt() -> None:
    with pytest.raises(RequestError, match="exclude each other"):
        render(Templates(HEADERS), TALK, add_generation_prompt=True, continue_final_message=True)
