"""Answering: a request that is ready to be computed becomes a reply, whole or streamed.

Knows generations and replies; knows no body's fields beyond those that say what the client wants to see, and
no node.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.asked import Asked
from router.feed import Delta
from router.finished import About
from router.front import Front
from router.generation import Generation
from router.keys import salt_of
from router.params import timeout_s
from router.replies import Reply
from router.served_by import served_by
from router.shown import Shown
from router.sse import EventStream, unless_gone
from router.streaming import Streaming
from router.submission import Submission


def begin(front: Front, request: Request, asked: Asked, model: str) -> Generation:
    """``model`` is what the client calls it. Raises Unavailable."""
    state, parent = request.state, request.headers.get("traceparent", "")
    submission = Submission(
        request=state.request_id,
        prompts=asked.prompts,
        sampling=asked.sampling,
        priority=asked.priority,
        timeout_s=timeout_s(request.headers),
        cache_salt=salt_of(state.tenant, asked.cache_salt),
        whole=not asked.stream,
        counts=asked.usage or not asked.stream,
        timing=asked.timing or request.headers.get("x-pagewire-timing") == "1",
        shown=front.tokenizer.special_ids if asked.special else asked.marks,
        about=About(state.tenant, model, asked.stream, parent),
    )
    return front.service.submit(submission, state.ticket)


async def answer(front: Front, request: Request, asked: Asked, reply: Reply) -> Response:
    generation = begin(front, request, asked, reply.about.model)
    shown = Shown(generation, asked, reply)
    if asked.stream:
        stream = Streaming(shown)
        return EventStream(stream.events(), partial(served_by, generation), at_once=stream.at_once)
    try:
        whole = shown.whole(await unless_gone(request.receive, gathered(generation)))
        return JSONResponse(whole, headers=served_by(generation))
    finally:
        generation.cancel()


async def gathered(generation: Generation) -> list[Delta]:
    """Every choice's deltas as one, once all have ended."""
    choices = [Delta(index) for index in range(generation.choices)]
    while deltas := await generation.feed.take():
        for delta in deltas:
            choices[delta.index].add(delta)
    return choices
