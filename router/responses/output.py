"""The output of a response as it grows: items from pieces, and the events that tell of them.

Knows OpenAI's items and events; knows no token, no clock and no socket. Events come without their number.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from pagewire.text.output.pieces import Arguments, Call, Content, Piece, Reasoning

Event = dict[str, Any]
Logprobs = list[dict[str, Any]]


class Output:
    """``items`` are those so far, the last perhaps still open."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None

    def take(self, pieces: Sequence[Piece], logprobs: Logprobs | None = None) -> list[Event]:
        """``logprobs`` are those of the tokens behind ``pieces``, of which content shows them."""
        events: list[Event] = []
        for piece in pieces:
            match piece:
                case Content(text):
                    events += [*self._on("message"), self._text(text, logprobs or [])]
                    logprobs = None
                case Reasoning(text):
                    events += [*self._on("reasoning"), self._thought(text)]
                case Call(name):
                    events += [*self._close("completed"), *self._begin(_call(name))]
                case Arguments(text):
                    assert self._open is not None
                    self._open["arguments"] += text
                    events.append(self._event("response.function_call_arguments.delta", delta=text))
        return events

    def finish(self, status: str) -> list[Event]:
        """``status`` is that of the last item: completed or incomplete."""
        events = [] if self.items else self._begin(_message())
        return events + self._close(status)

    # --- items ----------------------------------------------------------------------------------------------

    def _on(self, kind: str) -> list[Event]:
        """Go on with an item of ``kind``, or begin one."""
        if self._open is not None and self._open["type"] == kind:
            return []
        return [*self._close("completed"), *self._begin(_message() if kind == "message" else _reasoning())]

    def _begin(self, item: dict[str, Any]) -> list[Event]:
        self.items.append(item)
        self._open = item
        added = self._event("response.output_item.added", item=_copy(item), item_id=None)
        if item["type"] == "function_call":
            return [added]
        item["content"].append(_part(item["type"]))
        part = self._event("response.content_part.added", content_index=0, part=_part(item["type"]))
        return [added, part]

    def _close(self, status: str) -> list[Event]:
        item = self._open
        if item is None:
            return []
        item["status"] = status
        events: list[Event]
        if item["type"] == "function_call":
            told = {"arguments": item["arguments"], "name": item["name"]}
            events = [self._event("response.function_call_arguments.done", **told)]
        else:
            (part,) = item["content"]
            told = {"content_index": 0, "text": part["text"]}
            if item["type"] == "message":
                events = [self._event("response.output_text.done", **told, logprobs=part["logprobs"])]
            else:
                events = [self._event("response.reasoning_text.done", **told)]
            events.append(self._event("response.content_part.done", content_index=0, part=dict(part)))
        events.append(self._event("response.output_item.done", item=_copy(item), item_id=None))
        self._open = None
        return events

    def _text(self, text: str, logprobs: Logprobs) -> Event:
        assert self._open is not None
        (part,) = self._open["content"]
        part["text"] += text
        part["logprobs"] += logprobs
        return self._event("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)

    def _thought(self, text: str) -> Event:
        assert self._open is not None
        self._open["content"][0]["text"] += text
        return self._event("response.reasoning_text.delta", content_index=0, delta=text)

    def _event(self, kind: str, **fields: Any) -> Event:
        """About the open item, which is the last."""
        event = {"type": kind, "output_index": len(self.items) - 1, "item_id": self.items[-1]["id"], **fields}
        return {key: value for key, value in event.items() if value is not None}


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """As it is now: an open item goes on growing."""
    parts = item.get("content")
    return {**item, "content": [dict(part) for part in parts]} if parts is not None else dict(item)


def _message() -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(16)}",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _reasoning() -> dict[str, Any]:
    return {
        "id": f"rs_{secrets.token_hex(16)}",
        "type": "reasoning",
        "status": "in_progress",
        "summary": [],
        "content": [],
    }


def _call(name: str) -> dict[str, Any]:
    return {
        "id": f"fc_{secrets.token_hex(16)}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": f"call_{secrets.token_hex(12)}",
        "name": name,
        "arguments": "",
    }


def _part(kind: str) -> dict[str, Any]:
    if kind == "message":
        return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {"type": "reasoning_text", "text": ""}
