"""Replies of chats: a message with its content, what the model thought, and the tools it calls.

Knows OpenAI's and vLLM's shapes, and pieces of output; knows no format in which models write them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pagewire.messages import TokenItem
from pagewire.text.output.parser import OutputParser
from pagewire.text.output.pieces import Arguments, Call, Content, Piece, Reasoning
from router.feed import Delta
from router.replies import Reply, finite, prompt_entries


@dataclass(slots=True)
class ChatReply(Reply):
    """Text and nothing else."""

    object_whole: ClassVar[str] = "chat.completion"
    object_chunk: ClassVar[str] = "chat.completion.chunk"

    def opening(self, index: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def around(self) -> dict[str, Any]:
        found = self.prompt_logprobs.get(0)
        return {} if found is None else {"prompt_logprobs": prompt_entries(self.about, 0, found)}

    def chunk(self, delta: Delta) -> dict[str, Any] | None:
        if not self._worth(delta):
            return None
        content = {"content": delta.text} if delta.text or delta.items else {}
        return {
            "index": delta.index,
            "delta": content,
            "logprobs": self.logprobs_of(delta.items),
            **self._ending(delta),
        }

    def whole(self, delta: Delta) -> dict[str, Any]:
        return {
            "index": delta.index,
            "message": {"role": "assistant", "content": delta.text, "refusal": None, "annotations": []},
            "logprobs": self.logprobs_of(delta.items),
            **self._ending(delta),
        }

    def logprobs_of(self, items: Sequence[TokenItem]) -> dict[str, Any] | None:
        if self.about.logprobs is None or not items:
            return None
        content = []
        for item in items:
            top = [self._entry(token, value) for token, value in item.top[: self.about.logprobs]]
            content.append({**self._entry(item.token, item.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": self.about.vocabulary.token_text(token),
            "logprob": finite(logprob),
            "bytes": list(self.about.vocabulary.token_bytes(token)),
        }


@dataclass(slots=True)
class _Choice:
    """``offsets`` are those of tokens of which it is not known yet whether they belong to the thinking."""

    parser: OutputParser
    calls: int = 0
    thought: int = 0  # tokens
    offsets: list[int] = field(default_factory=list)


@dataclass(slots=True)
class ParsedChatReply(ChatReply):
    """Text that may hold thinking and calls of tools. ``named``: the client chose the tool, and then a call
    ends a choice as any other text does.
    """

    parser: Callable[[], OutputParser]
    named: bool = False
    _choices: dict[int, _Choice] = field(default_factory=dict, init=False)

    def opening(self, index: int) -> list[dict[str, Any]]:
        """There may be no content at all, and then it is null, as in the whole reply."""
        delta = {"role": "assistant", "content": None}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    @property
    def only_text(self) -> bool:
        return False

    @property
    def reasoning_tokens(self) -> int:
        return sum(choice.thought for choice in self._choices.values())

    def chunk(self, delta: Delta) -> dict[str, Any] | None:
        shown = self._parse(delta)
        if not shown and not self._worth(Delta(delta.index, items=delta.items, finish=delta.finish)):
            return None
        return {
            "index": delta.index,
            "delta": shown,
            "logprobs": self.logprobs_of(delta.items),
            **self._ending(delta),
        }

    def whole(self, delta: Delta) -> dict[str, Any]:
        shown = self._parse(delta)
        content = shown.get("content")
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content if content or "tool_calls" in shown else "",
            "refusal": None,
            "annotations": [],
        }
        for name in ("reasoning", "reasoning_content"):
            if name in shown:
                message[name] = shown[name]
        if "tool_calls" in shown:
            message["tool_calls"] = [
                {key: value for key, value in call.items() if key != "index"} for call in shown["tool_calls"]
            ]
        return {
            "index": delta.index,
            "message": message,
            "logprobs": self.logprobs_of(delta.items),
            **self._ending(delta),
        }

    def _parse(self, delta: Delta) -> dict[str, Any]:
        """What ``delta`` adds, as OpenAI's delta of a message."""
        choice = self._choices.get(delta.index)
        if choice is None:
            choice = self._choices[delta.index] = _Choice(self.parser())
        pieces = choice.parser.push(delta.text)
        if delta.finish:
            pieces += choice.parser.finish()
        _count_thought(choice, delta, over=bool(delta.finish))
        return _message(pieces, choice)

    def _ending(self, delta: Delta) -> dict[str, Any]:
        ending = ChatReply._ending(self, delta)
        called = self._choices[delta.index].calls and not self.named
        if delta.finish == "stop" and called:
            ending["finish_reason"] = "tool_calls"
        return ending


def _count_thought(choice: _Choice, delta: Delta, *, over: bool) -> None:
    """Tokens whose text begins before the end of the thinking are tokens of it."""
    choice.offsets += delta.offsets
    until = choice.parser.thought_until
    if until is not None or over:
        choice.thought += sum(until is None or offset < until for offset in choice.offsets)
        choice.offsets = []


def _message(pieces: Sequence[Piece], choice: _Choice) -> dict[str, Any]:
    content, thought = [], []
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        match piece:
            case Content(text):
                content.append(text)
            case Reasoning(text):
                thought.append(text)
            case Call(name):
                calls.append(_call(choice.calls, name))
                choice.calls += 1
            case Arguments(text):
                if not calls:
                    calls.append({"index": choice.calls - 1, "function": {"arguments": ""}})
                calls[-1]["function"]["arguments"] += text
    shown: dict[str, Any] = {}
    if content:
        shown["content"] = "".join(content)
    if thought:
        shown["reasoning"] = shown["reasoning_content"] = "".join(thought)
    if calls:
        shown["tool_calls"] = calls
    return shown


def _call(index: int, name: str) -> dict[str, Any]:
    return {
        "index": index,
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }
