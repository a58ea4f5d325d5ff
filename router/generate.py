"""Chat and completions: from a checked body to a reply, whole or streamed.

Knows bodies, text and generations; knows no node and no message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pagewire.errors import RequestError, Unavailable, UnknownModel
from pagewire.messages import PromptLogprobs
from pagewire.sampling import SamplingParams
from pagewire.text.chat import render
from pagewire.text.tokenizer import Tokenizer
from router import params
from router.body import read
from router.feed import Delta
from router.finished import About
from router.replies import ChatReply, CompletionReply, Prompt, Reply, usage_of
from router.requests import Generation
from router.schemas import ChatBody, CompletionBody, GenerationBody, Message, TokenizeBody
from router.service import Service
from router.sse import EventStream, unless_gone

LONG_TEXT = 16 << 10  # characters from which on tokenising leaves the event loop


@dataclass(frozen=True, slots=True)
class Front:
    """What every route needs. ``names`` are what clients may call the model; the first is its own."""

    service: Service
    tokenizer: Tokenizer
    names: tuple[str, ...]
    started: int  # Unix time

    def model(self, asked: str | None) -> str:
        """The name to answer with. Raises UnknownModel."""
        if asked is None or asked in self.names:
            return asked or self.names[0]
        raise UnknownModel(f"the model {asked[:128]!r} is not served here", param="model")

    def limit(self) -> int:
        """Tokens of prompt and answer together. Raises Unavailable while no node has said."""
        limit = self.service.max_model_len
        if limit is None:
            raise Unavailable("no prefill and decode node are ready", retry_after=2.0)
        return limit

    async def encode(self, text: str, *, special: bool) -> list[int]:
        if len(text) < LONG_TEXT:
            return self.tokenizer.encode(text, add_special_tokens=special)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=special)


async def chat(front: Front, request: Request) -> Response:
    body = await read(request, ChatBody)
    name = front.model(body.model)
    sampling = params.of_chat(body)
    front.service.admit()
    tokens = checked(front, await encode_chat(front, body, body.messages), "messages")
    sampling = params.fit(sampling, len(tokens), front.limit())
    reply = ChatReply(
        id=f"chatcmpl-{request.state.request_id}",
        model=name,
        created=int(time.time()),
        vocabulary=front.tokenizer,
        logprobs=sampling.logprobs,
        token_ids=bool(body.return_token_ids),
    )
    return await _answer(front, request, body, reply, [tokens], sampling)


async def completion(front: Front, request: Request) -> Response:
    body = await read(request, CompletionBody)
    name = front.model(body.model)
    given = prompts_of(body.prompt)
    sampling = params.of_completion(body, len(given))
    front.service.admit(len(given))
    prompts = [await _prompt(front, body, prompt) for prompt in given]
    longest = max(len(prompt.tokens) for prompt in prompts)
    sampling = params.fit(sampling, longest, front.limit(), default=body.max_tokens is None)
    reply = CompletionReply(
        id=f"cmpl-{request.state.request_id}",
        model=name,
        created=int(time.time()),
        vocabulary=front.tokenizer,
        logprobs=sampling.logprobs,
        token_ids=bool(body.return_token_ids),
        n=sampling.n,
        prompts=prompts,
        echo=bool(body.echo),
    )
    tokens = [prompt.tokens for prompt in prompts]
    return await _answer(front, request, body, reply, tokens, sampling, mute=params.only_echo(body))


def prompts_of(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """OpenAI's four forms as a list of texts or token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise RequestError("the prompt is empty", param="prompt")
    if isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


async def encode_chat(front: Front, body: ChatBody | TokenizeBody, messages: list[Message]) -> list[int]:
    """Token ids of a rendered conversation. Raises RequestError."""
    more = bool(body.continue_final_message)
    text = render(
        front.tokenizer,
        [message_of(message) for message in messages],
        add_generation_prompt=not more if body.add_generation_prompt is None else body.add_generation_prompt,
        continue_final_message=more,
    )
    return await front.encode(text, special=bool(body.add_special_tokens))


def message_of(message: Message) -> dict[str, Any]:
    """A message for the template, which knows no developers."""
    role = "system" if message.role == "developer" else message.role
    return {**message.model_dump(exclude_none=True), "role": role}


def checked(front: Front, tokens: list[int], field: str) -> list[int]:
    if not tokens:
        raise RequestError("the prompt is empty", param=field)
    if not all(0 <= token < front.tokenizer.vocab_size for token in tokens):
        raise RequestError(f"token ids are whole numbers below {front.tokenizer.vocab_size}", param=field)
    return tokens


async def _prompt(front: Front, body: CompletionBody, given: str | list[int]) -> Prompt:
    if isinstance(given, str):
        special = True if body.add_special_tokens is None else body.add_special_tokens
        return Prompt(checked(front, await front.encode(given, special=special), "prompt"), given)
    tokens = checked(front, given, "prompt")
    return Prompt(tokens, front.tokenizer.decode(tokens, skip_special_tokens=False) if body.echo else "")


# --- answering ----------------------------------------------------------------------------------------------


async def _answer(
    front: Front,
    request: Request,
    body: GenerationBody,
    reply: Reply,
    prompts: list[list[int]],
    sampling: SamplingParams,
    *,
    mute: bool = False,
) -> Response:
    """``mute``: nothing of what is generated is shown."""
    options = body.stream_options
    timing = bool(body.timing) or request.headers.get("x-pagewire-timing") == "1"
    usage = bool(options and options.include_usage)
    generation = front.service.submit(
        request.state.request_id,
        prompts,
        sampling,
        cache_salt=body.cache_salt or "",
        whole=not body.stream,
        counts=usage or not body.stream,
        timing=timing,
        about=_about(request, body, reply),
    )
    shape = _Shape(reply, timing, usage, bool(options and options.continuous_usage_stats), mute)
    if body.stream:
        return EventStream(_stream(generation, shape))
    try:
        return JSONResponse(await unless_gone(request.receive, _whole(generation, shape)))
    finally:
        generation.cancel()


def _about(request: Request, body: GenerationBody, reply: Reply) -> About:
    parent = request.headers.get("traceparent", "")
    return About(request.state.tenant, reply.model, bool(body.stream), parent)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the client wants to see."""

    reply: Reply
    timing: bool
    usage: bool
    running_usage: bool
    mute: bool


async def _whole(generation: Generation, shape: _Shape) -> dict[str, Any]:
    choices = [Delta(index) for index in range(generation.choices)]
    while deltas := await generation.feed.take():
        for delta in deltas:
            whole = choices[delta.index]
            whole.text += delta.text
            whole.items += delta.items
            whole.offsets += delta.offsets
            if delta.finish:
                whole.finish, whole.stop_reason = delta.finish, delta.stop_reason
    _share_prompts(generation, shape.reply)
    body = shape.reply.frame([shape.reply.whole(_shown(c, shape)) for c in choices], chunk=False)
    body["usage"] = _usage(generation, shape)
    if shape.timing:
        body["timing"] = generation.timing()
    return body


async def _stream(generation: Generation, shape: _Shape) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Lists of chunks, each as soon as there is something to tell."""
    reply, opened = shape.reply, set[int]()
    try:
        while deltas := await generation.feed.take():
            _share_prompts(generation, reply)
            choices: list[dict[str, Any]] = []
            for delta in deltas:
                if delta.index not in opened:
                    opened.add(delta.index)
                    choices += reply.opening(delta.index)
                shown = _shown(delta, shape)
                if _worth(shown, reply):
                    choices.append(reply.chunk(shown))
            if choices:
                yield [_chunk(generation, shape, [choice]) for choice in choices]
        if shape.usage or shape.timing:
            last = _chunk(generation, shape, [], last=True)
            yield [last]
    finally:
        generation.cancel()


def _chunk(
    generation: Generation, shape: _Shape, choices: list[dict[str, Any]], *, last: bool = False
) -> dict[str, Any]:
    chunk = shape.reply.frame(choices, chunk=True)
    if shape.usage:
        told = last or shape.running_usage
        chunk["usage"] = _usage(generation, shape) if told else None
    if last and shape.timing:
        chunk["timing"] = generation.timing()
    return chunk


def _shown(delta: Delta, shape: _Shape) -> Delta:
    return replace(delta, text="", items=[], offsets=[], stop_reason=None) if shape.mute else delta


def _worth(delta: Delta, reply: Reply) -> bool:
    """A token of which nothing can be seen yet makes no chunk."""
    seen = delta.items and (reply.logprobs is not None or reply.token_ids)
    return bool(delta.text or delta.finish or seen)


def _share_prompts(generation: Generation, reply: Reply) -> None:
    if isinstance(reply, CompletionReply):
        known: dict[int, PromptLogprobs] = {
            number: member.prompt_logprobs
            for number, member in enumerate(generation.members)
            if member.prompt_logprobs is not None
        }
        reply.prompt_logprobs = known


def _usage(generation: Generation, shape: _Shape) -> dict[str, Any]:
    """A prompt counts once, however many choices it has."""
    members = generation.members
    cached = [member.cached_tokens for member in members if member.cached_tokens is not None]
    return usage_of(
        sum(member.prompt_tokens for member in members),
        0 if shape.mute else sum(member.completion_tokens for member in members),
        sum(cached) if len(cached) == len(members) else None,
    )
