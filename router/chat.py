"""``/v1/chat/completions``: from a body to a reply.

Knows bodies, text and replies; knows no node and no message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from pagewire.sampling import SamplingParams
from pagewire.text.output.parser import OutputParser
from router import params
from router.asked import Asked
from router.body import read
from router.chat_reply import ChatReply, ParsedChatReply
from router.front import Front
from router.generate import answer
from router.prompts import Prompt, checked, render_chat
from router.renaming import renaming
from router.replies import Envelope
from router.schemas import ChatBody
from router.structured import param_of
from router.tool_use import ToolUse, constrained, tool_use


@dataclass(frozen=True, slots=True)
class Turn:
    """A chat that is ready to be computed. ``parser`` makes one for each choice; None: text is only text."""

    tokens: list[int]
    sampling: SamplingParams
    use: ToolUse
    parser: Callable[[], OutputParser] | None
    marks: frozenset[int]  # special tokens that the parser must see


async def prepare(front: Front, body: ChatBody) -> Turn:
    """Everything about a chat that can be refused, and then its tokens. Raises RequestError."""
    with renaming(params.chat_names(body)):
        sampling = params.of_chat(body)
        use = tool_use(body, front.dialect)
        text = render_chat(front, body, body.messages, use)
        thinking = front.dialect.thinking(text)
        by_format = sampling.grammar is not None and not use.forced
        sampling = constrained(sampling, use, front.dialect, thinking)
        if sampling.grammar is not None:
            await front.grammars.check(sampling.grammar, param_of(body) if by_format else "tools")
        tokens = checked(front, await front.encode(text, special=bool(body.add_special_tokens)), "messages")
        sampling = params.fit(sampling, len(tokens), front.limit(), field="messages")
    if not use.tools and thinking is None:
        return Turn(tokens, sampling, use, None, frozenset())
    make = partial(front.dialect.parser, thinking, bool(use.tools), use.limit)
    return Turn(tokens, sampling, use, make, front.dialect.marks)


async def chat(front: Front, request: Request) -> Response:
    body = await read(request, ChatBody)
    name = front.model(body.model)
    turn = await prepare(front, body)
    about = Envelope(
        id=f"chatcmpl-{request.state.request_id}",
        model=name,
        created=int(time.time()),
        vocabulary=front.tokenizer,
        prompts=[Prompt(turn.tokens)],
        fingerprint=front.fingerprint(),
        logprobs=turn.sampling.logprobs,
        prompt_top=body.prompt_logprobs,
        token_ids=bool(body.return_token_ids),
    )
    reply = ParsedChatReply(about, turn.parser, turn.use.named) if turn.parser else ChatReply(about)
    return await answer(front, request, Asked.of(body, [turn.tokens], turn.sampling, marks=turn.marks), reply)
