"""A conversation to the text of a prompt, through the model's own chat template.

Knows OpenAI's message shape and the helpers that templates on the HuggingFace hub expect; knows no token id.
A template comes with the model and is run in jinja's sandbox; the messages come from a client, so that
whatever they make the template do ends as a RequestError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pagewire.errors import ModelError, RequestError

MAX_CHARS = 16 << 20
_END_OF_MESSAGE = "\ue000end of message\ue000 "  # private use: no template writes it
_FAULTS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)


class HasTemplates(Protocol):
    """What this needs of a tokenizer: templates by name, and the special tokens they may write."""

    chat_templates: dict[str, str]
    special_names: dict[str, str]


def render(
    tokenizer: HasTemplates,
    messages: list[dict[str, Any]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tools: list[dict[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The prompt for ``messages``. It holds its special tokens: encode it with ``add_special_tokens=False``.

    ``continue_final_message`` leaves the last message open, so that the model goes on with it.
    ``template_kwargs`` are further variables for the template, such as ``enable_thinking``. Raises
    RequestError if the model has no template, or if the template refuses or cannot render what it is given.
    """
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other",
            param="continue_final_message",
        )
    talk = shaped(messages)
    if continue_final_message:
        talk[-1] = _left_open(talk[-1])
    variables = {
        **tokenizer.special_names,
        **(template_kwargs or {}),
        "messages": talk,
        "tools": tools or None,
        "add_generation_prompt": add_generation_prompt,
    }
    text = _run(_template(_source(tokenizer.chat_templates, tools)), variables)
    return _cut(text) if continue_final_message else text


def _source(templates: dict[str, str], tools: list[dict[str, Any]] | None) -> str:
    source = templates.get("tool_use") if tools else None
    source = source or templates.get("default")
    if source is None:
        raise RequestError("this model has no chat template; use /v1/completions", code="no_chat_template")
    return source


def shaped(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies in the shape that templates expect: content as one string, tool arguments as objects.

    Raises RequestError with the place of what cannot be.
    """
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list of at least one message", param="messages")
    return [_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _message(message: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError(f"{where} must be an object with a role", param=where)
    shaped = dict(message)
    content = message.get("content")
    if isinstance(content, list):
        shaped["content"] = "\n".join(
            _text(part, f"{where}.content[{at}]") for at, part in enumerate(content)
        )
    elif content is not None and not isinstance(content, str):
        raise RequestError(f"{where}.content must be text or a list of parts", param=f"{where}.content")
    if message.get("tool_calls"):
        shaped["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    return shaped


def _text(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise RequestError(f"{where} is not a text part; this model reads only text", param=where)
    text: str = part["text"]
    return text


def _tool_calls(calls: Any, where: str) -> list[Any]:
    """OpenAI writes a call's arguments as JSON in a string; templates write them as JSON themselves."""
    if not isinstance(calls, list):
        raise RequestError(f"{where} must be a list", param=where)
    return [_tool_call(call, f"{where}[{at}]") for at, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise RequestError(f"{where} must be an object with a function", param=where)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments else {}
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{where}.function.arguments is not JSON", param=where) from error
    return {**call, "function": {**function, "arguments": arguments}}


def _left_open(message: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(message.get("content"), str):
        raise RequestError("the final message has no text to continue", param="continue_final_message")
    return {**message, "content": message["content"] + _END_OF_MESSAGE}


def _cut(text: str) -> str:
    """``text`` up to the mark. A template that trims messages took the mark's space, and trims what it marks
    too.
    """
    at = text.rfind(_END_OF_MESSAGE.strip())
    if at < 0:
        raise RequestError(
            "the chat template does not show the final message, so it cannot be continued",
            param="continue_final_message",
        )
    whole = text.startswith(_END_OF_MESSAGE, at)
    return text[:at] if whole else text[:at].rstrip()


def _run(template: Template, variables: dict[str, Any]) -> str:
    pieces, size = [], 0
    try:
        for piece in template.generate(variables):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_CHARS:
                raise RequestError("the rendered chat is too long", param="messages")
    except _FAULTS as error:
        raise RequestError(f"the chat template cannot render this: {error}", param="messages") from error
    return "".join(pieces)


@lru_cache(maxsize=16)
def _template(source: str) -> Template:
    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise ModelError(f"the model's chat template is not valid jinja: {error.message}") from error


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja's own filter would escape for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class _Generation(Extension):
    """``{% generation %}`` marks the model's words for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own declaration)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
