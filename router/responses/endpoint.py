"""``POST /v1/responses``: one response to one request, whole or as events.

Knows how a chat is prepared and computed, and the response around its output; knows no node.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pagewire.errors import PagewireError
from pagewire.text.output.parser import OutputParser
from router.answers import body_of
from router.asked import Asked
from router.body import read
from router.chat import Turn, prepare
from router.chat_reply import ChatReply
from router.feed import Delta
from router.front import Front
from router.generate import begin, gathered
from router.generation import Generation
from router.prompts import Prompt
from router.renaming import renaming
from router.replies import Envelope
from router.responses.output import Output
from router.responses.response import Frame, usage_of
from router.responses.schemas import ResponsesBody
from router.responses.translate import LOGPROBS, NAMES, chat_of
from router.served_by import served_by
from router.sse import EventStream, event, unless_gone


async def respond(front: Front, request: Request) -> Response:
    body = await read(request, ResponsesBody)
    name = front.model(body.model)
    with renaming(NAMES):
        chat = chat_of(body)
        turn = await prepare(front, chat)
    frame = Frame(f"resp_{request.state.request_id}", name, int(time.time()), body)
    asked = replace(Asked.of(chat, [turn.tokens], turn.sampling, marks=turn.marks), usage=True)
    shaping = Shaping(front, turn, frame)
    generation = begin(front, request, asked, name)
    if asked.stream:
        return EventStream(_events(generation, shaping), partial(served_by, generation), last=b"")
    try:
        whole = await unless_gone(request.receive, _whole(generation, shaping))
        return JSONResponse(whole, headers=served_by(generation))
    finally:
        generation.cancel()


class Shaping:
    """One response in the making: its text through the parser into the output."""

    def __init__(self, front: Front, turn: Turn, frame: Frame) -> None:
        self.frame = frame
        self.output = Output()
        self.finish = ""
        self.thought = 0
        self._parser = turn.parser() if turn.parser else OutputParser(None, None)
        self._offsets: list[int] = []
        shown = turn.sampling.logprobs if LOGPROBS in (frame.body.include or []) else None
        about = Envelope(
            id="", model="", created=0, vocabulary=front.tokenizer, prompts=[Prompt([])], logprobs=shown
        )
        self._tokens = ChatReply(about)

    def take(self, delta: Delta) -> list[dict[str, Any]]:
        pieces = self._parser.push(delta.text)
        until = self._parser.thought_until
        found = self._tokens.logprobs_of(delta.items) if until is not None else None
        events = self.output.take(pieces, found["content"] if found else None)
        self._offsets += delta.offsets
        if delta.finish:
            self.finish = delta.finish
            events += self.output.take(self._parser.finish())
            events += self.output.finish("incomplete" if delta.finish == "length" else "completed")
            until = self._parser.thought_until or 0
            self.thought = sum(offset < until for offset in self._offsets)
        return events

    def response(self, generation: Generation) -> dict[str, Any]:
        """Once it has ended."""
        timing = generation.timing() if generation.wants_timing else None
        return self.frame.ended(self.finish, self.output.items, usage_of(generation, self.thought), timing)


async def _whole(generation: Generation, shaping: Shaping) -> dict[str, Any]:
    (delta,) = await gathered(generation)
    shaping.take(delta)
    return shaping.response(generation)


async def _events(generation: Generation, shaping: Shaping) -> AsyncGenerator[bytes, None]:
    """Events, each as soon as there is something to tell; the first when there is a token. The last one says
    how it ended, and there is no ``[DONE]``.
    """
    numbers = itertools.count()
    try:
        async with aclosing(_unnumbered(generation, shaping)) as lists:
            async for events in lists:
                numbered = ({**one, "sequence_number": next(numbers)} for one in events)
                yield b"".join(event(one, one["type"]) for one in numbered)
    finally:
        generation.cancel()


async def _unnumbered(generation: Generation, shaping: Shaping) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Raises what ended the request before there was a token; later it is an event."""
    frame = shaping.frame
    deltas = await generation.feed.take()
    yield [told("created", frame.started()), told("in_progress", frame.started())]
    try:
        while deltas:
            if events := [found for delta in deltas for found in shaping.take(delta)]:
                yield events
            deltas = await generation.feed.take()
    except PagewireError as error:
        yield [told("failed", frame.failed(body_of(error)["error"]["message"]))]
        return
    response = shaping.response(generation)
    yield [told(response["status"], response)]


def told(status: str, response: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"response.{status}", "response": response}
