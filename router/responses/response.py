"""The response object around an output: what was asked for, and how it ended.

Knows OpenAI's shape; knows no piece and no socket.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from router.generation import Generation
from router.responses.schemas import ResponsesBody


@dataclass(frozen=True, slots=True)
class Frame:
    """``created`` is Unix time."""

    id: str
    model: str
    created: int
    body: ResponsesBody

    def started(self) -> dict[str, Any]:
        return self._response("in_progress", [])

    def ended(
        self, finish: str, items: list[dict[str, Any]], usage: dict[str, Any], timing: Any
    ) -> dict[str, Any]:
        """``finish`` is the choice's: "stop" or "length"."""
        cut = finish == "length"
        response = self._response("incomplete" if cut else "completed", items)
        response["usage"] = usage
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["completed_at"] = int(time.time())
        return response if timing is None else response | {"timing": timing}

    def failed(self, message: str) -> dict[str, Any]:
        return self._response("failed", []) | {"error": {"code": "server_error", "message": message}}

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        body = self.body
        told = body.model_dump(
            include={"instructions", "max_output_tokens", "metadata", "user", "tools", "tool_choice"},
            exclude_none=False,
        )
        reasoning = body.reasoning
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "completed_at": None,
            "usage": None,
            "background": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "service_tier": "default",
            "instructions": told["instructions"],
            "max_output_tokens": told["max_output_tokens"],
            "metadata": told["metadata"] or {},
            "user": told["user"],
            "tools": told["tools"] or [],
            "tool_choice": told["tool_choice"] or "auto",
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
        }


def usage_of(generation: Generation, thought: int) -> dict[str, Any]:
    given, spent = generation.prompt_tokens, generation.completion_tokens
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": generation.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": spent,
        "output_tokens_details": {"reasoning_tokens": min(thought, spent)},
        "total_tokens": given + spent,
    }
