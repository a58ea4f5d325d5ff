"""Answering: a request that is ready to be computed becomes a reply, whole or streamed.

Knows generations and replies; knows no body's fields beyond those that say what the client wants to see, and
no node.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pagewire.sampling import SamplingParams
from router.feed import Delta
from router.finished import About
from router.front import Front
from router.keys import salt_of
from router.params import timeout_s
from router.replies import Reply, usage_of
from router.requests import Generation
from router.schemas import GenerationBody
from router.served_by import served_by
from router.sse import EventStream, TextEvent, event, unless_gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be computed, and what the client wants to see. ``marks`` are special tokens that the reply's
    parser must see in the text; ``special`` shows all of them.
    """

    prompts: list[list[int]]
    sampling: SamplingParams
    stream: bool = False
    usage: bool = False
    running_usage: bool = False
    timing: bool = False
    cache_salt: str = ""
    priority: int = 0
    marks: frozenset[int] = frozenset()
    special: bool = False
    mute: bool = False  # nothing of what is generated is shown

    @staticmethod
    def of(
        body: GenerationBody,
        prompts: list[list[int]],
        sampling: SamplingParams,
        *,
        marks: frozenset[int] = frozenset(),
        mute: bool = False,
    ) -> Asked:
        options = body.stream_options
        usage = bool(options and options.include_usage)
        return Asked(
            prompts=prompts,
            sampling=sampling,
            stream=bool(body.stream),
            usage=usage,
            running_usage=usage and bool(options and options.continuous_usage_stats),
            timing=bool(body.timing),
            cache_salt=body.cache_salt or "",
            priority=body.priority or 0,
            marks=marks,
            special=body.skip_special_tokens is False,
            mute=mute,
        )


def begin(front: Front, request: Request, asked: Asked, model: str) -> Generation:
    """``model`` is what the client calls it. Raises Unavailable."""
    state, parent = request.state, request.headers.get("traceparent", "")
    return front.service.submit(
        request.state.request_id,
        asked.prompts,
        asked.sampling,
        request.state.ticket,
        priority=asked.priority,
        timeout_s=timeout_s(request.headers),
        cache_salt=salt_of(request.state.tenant, asked.cache_salt),
        whole=not asked.stream,
        counts=asked.usage or not asked.stream,
        timing=asked.timing or request.headers.get("x-pagewire-timing") == "1",
        shown=front.tokenizer.special_ids if asked.special else asked.marks,
        about=About(state.tenant, model, asked.stream, parent),
    )


async def answer(front: Front, request: Request, asked: Asked, reply: Reply) -> Response:
    generation = begin(front, request, asked, reply.about.model)
    if asked.stream:
        return EventStream(_stream(generation, asked, reply), partial(served_by, generation))
    try:
        whole = await unless_gone(request.receive, _whole(generation, asked, reply))
        return JSONResponse(whole, headers=served_by(generation))
    finally:
        generation.cancel()


async def gathered(generation: Generation) -> list[Delta]:
    """Every choice's deltas as one, once all have ended."""
    choices = [Delta(index) for index in range(generation.choices)]
    while deltas := await generation.feed.take():
        for delta in deltas:
            whole = choices[delta.index]
            whole.text += delta.text
            whole.items += delta.items
            whole.offsets += delta.offsets
            if delta.finish:
                whole.finish, whole.stop_reason = delta.finish, delta.stop_reason
    return choices


async def _whole(generation: Generation, asked: Asked, reply: Reply) -> dict[str, Any]:
    choices = await gathered(generation)
    _share_prompts(generation, reply)
    body = reply.frame([reply.whole(_muted(c) if asked.mute else c) for c in choices], chunk=False)
    body |= reply.around()
    body["usage"] = _usage(generation, asked, reply)
    if generation.members[0].wants_timing:
        body["timing"] = generation.timing()
    return body


async def _stream(generation: Generation, asked: Asked, reply: Reply) -> AsyncGenerator[bytes, None]:
    """Chunks, each as soon as there is something to tell."""
    texts: dict[int, TextEvent | None] = {}  # by choices whose stream has begun
    try:
        while deltas := await generation.feed.take():
            _share_prompts(generation, reply)
            if events := [told for delta in deltas for told in _told(generation, asked, reply, texts, delta)]:
                yield b"".join(events)
        if asked.usage or generation.members[0].wants_timing:
            yield event(_last(generation, asked, reply))
    finally:
        generation.cancel()


def _told(
    generation: Generation, asked: Asked, reply: Reply, texts: dict[int, TextEvent | None], delta: Delta
) -> Iterator[bytes]:
    """The chunks of one delta. Most have nothing new but a text."""
    index = delta.index
    if index not in texts:
        texts[index] = _text_event(generation, asked, reply, index)
        for choice in reply.opening(index):
            yield event(_chunk(generation, asked, reply, choice))
    elif (text_event := texts[index]) is not None and not delta.finish:
        if delta.text:
            yield text_event(delta.text)
        return
    if (shown := reply.chunk(_muted(delta) if asked.mute else delta)) is not None:
        yield event(_chunk(generation, asked, reply, shown))


def _text_event(generation: Generation, asked: Asked, reply: Reply, index: int) -> TextEvent | None:
    """None where chunks say more than a text."""
    if not reply.only_text or asked.running_usage or asked.mute:
        return None

    def example(text: str) -> dict[str, Any]:
        choice = reply.chunk(Delta(index, text))
        assert choice is not None
        return _chunk(generation, asked, reply, choice)

    return TextEvent(example)


def _chunk(generation: Generation, asked: Asked, reply: Reply, choice: dict[str, Any]) -> dict[str, Any]:
    chunk = reply.frame([choice], chunk=True)
    if asked.usage:
        chunk["usage"] = _usage(generation, asked, reply) if asked.running_usage else None
    return chunk


def _last(generation: Generation, asked: Asked, reply: Reply) -> dict[str, Any]:
    chunk = reply.frame([], chunk=True)
    if asked.usage:
        chunk["usage"] = _usage(generation, asked, reply)
    if generation.members[0].wants_timing:
        chunk["timing"] = generation.timing()
    return chunk


def _muted(delta: Delta) -> Delta:
    return Delta(delta.index, finish=delta.finish)


def _share_prompts(generation: Generation, reply: Reply) -> None:
    if reply.wants_prompts:
        for number, member in enumerate(generation.members):
            if member.prompt_logprobs is not None:
                reply.prompt_logprobs[number] = member.prompt_logprobs


def _usage(generation: Generation, asked: Asked, reply: Reply) -> dict[str, Any]:
    spent = 0 if asked.mute else sum(member.completion_tokens for member in generation.members)
    return usage_of(prompt_tokens(generation), spent, cached_tokens(generation), reply.reasoning_tokens)


def prompt_tokens(generation: Generation) -> int:
    """A prompt counts once, however many choices it has."""
    return sum(member.prompt_tokens for member in generation.members)


def cached_tokens(generation: Generation) -> int | None:
    """None: not every node has said."""
    members = generation.members
    cached = [member.cached_tokens for member in members if member.cached_tokens is not None]
    return sum(cached) if len(cached) == len(members) else None
