"""A body of ``/v1/responses`` as the chat that it asks for.

Knows both APIs' fields; knows no model. An error names the field that the client sent.
"""

from __future__ import annotations

from typing import Any

from pagewire.errors import RequestError
from router.body import validate
from router.responses.schemas import AllowedTools, Item, NamedFunction, ResponsesBody
from router.schemas import ChatBody
from router.unsupported import refuse_unsupported

# The chat's names of fields that are called otherwise here.
NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_SAME = (
    "model", "parallel_tool_calls", "temperature", "top_p", "stream", "user", "top_k", "min_p",
    "repetition_penalty", "seed", "stop", "min_tokens", "ignore_eos", "chat_template_kwargs", "priority",
    "cache_salt", "timing",
)  # fmt: skip
_TEXTS = ("input_text", "output_text", "text", "reasoning_text")
LOGPROBS = "message.output_text.logprobs"


def chat_of(body: ResponsesBody) -> ChatBody:
    """Raises RequestError."""
    _refuse(body)
    given = {name: value for name in _SAME if (value := getattr(body, name)) is not None}
    wants_logprobs = body.top_logprobs is not None or LOGPROBS in (body.include or [])
    chat: dict[str, Any] = given | {
        "messages": _messages(body),
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": wants_logprobs,
        "top_logprobs": body.top_logprobs if wants_logprobs else None,
        "tools": _tools(body),
        "tool_choice": _tool_choice(body),
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        "metadata": body.metadata,
    }
    if body.text is not None:
        chat |= {"response_format": _format(body.text.format), "verbosity": body.text.verbosity}
    return validate(ChatBody, chat)


def _refuse(body: ResponsesBody) -> None:
    """What would need a memory between requests, or another server than this."""
    for name, why in (
        ("previous_response_id", "nothing is stored here: send the earlier items as input"),
        ("conversation", "nothing is stored here: send the earlier items as input"),
        ("background", "nothing is stored here, so a response cannot be fetched later"),
        ("store", "nothing is stored here: leave store out, or send false"),
        ("prompt", "there are no stored prompts here: send instructions and input"),
    ):
        if getattr(body, name):
            raise RequestError(f"{name} is not supported: {why}", param=name)
    if body.truncation == "auto":
        raise RequestError("truncation is not supported: long input is refused", param="truncation")
    refuse_unsupported(body.unknown, 1)


def _messages(body: ResponsesBody) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    thought: str | None = None
    for at, item in enumerate(body.input):
        kind = item.type or "message"
        if kind == "reasoning":
            thought = "\n".join(part["text"] for part in _parts(item.content or [], f"input[{at}]")) or None
            continue
        message = _message(kind, item, f"input[{at}]")
        if message["role"] == "assistant":
            if thought:
                message["reasoning_content"] = thought
            if kind == "function_call" and messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
                continue
        thought = None
        messages.append(message)
    return messages


def _message(kind: str, item: Item, where: str) -> dict[str, Any]:
    match kind:
        case "message":
            if item.role is None or item.content is None:
                raise RequestError(f"{where} must have a role and content", param="input")
            content = item.content
            return {
                "role": item.role,
                "content": content if isinstance(content, str) else _parts(content, where),
            }
        case "function_call":
            if item.call_id is None or item.name is None or item.arguments is None:
                raise RequestError(f"{where} must have call_id, name and arguments", param="input")
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            if item.call_id is None or item.output is None:
                raise RequestError(f"{where} must have call_id and output", param="input")
            output = item.output if isinstance(item.output, str) else _parts(item.output, where)
            return {"role": "tool", "tool_call_id": item.call_id, "content": output}
        case _:
            raise RequestError(f"{where} is a {kind[:64]}, which is not supported here", param="input")


def _parts(content: str | list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """Text parts, whichever side they come from."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for part in content:
        if part.get("type") not in _TEXTS or not isinstance(part.get("text"), str):
            raise RequestError(f"{where} holds more than text; this model reads only text", param="input")
    return [{"type": "text", "text": part["text"]} for part in content]


def _tools(body: ResponsesBody) -> list[dict[str, Any]] | None:
    if body.tools is None:
        return None
    return [
        {"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"})}
        for tool in body.tools
    ]


def _tool_choice(body: ResponsesBody) -> Any:
    choice = body.tool_choice
    if isinstance(choice, NamedFunction):
        return _named(choice)
    if isinstance(choice, AllowedTools):
        names = [_named(tool) for tool in choice.tools]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": names}}
    return choice


def _named(choice: NamedFunction) -> dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}}


def _format(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """OpenAI's newer API has a schema's name and options beside its type; the older puts them below it."""
    if given is None or given.get("type") != "json_schema":
        return given
    return {
        "type": "json_schema",
        "json_schema": {key: value for key, value in given.items() if key != "type"},
    }
