"""``/v1/completions``: from a body to a reply.

Knows bodies, text and replies; knows no node and no message.
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from router import params
from router.asked import Asked
from router.body import read
from router.completion_reply import CompletionReply
from router.front import Front
from router.generate import answer
from router.prompts import prompt_of, prompts_of
from router.replies import Envelope
from router.schemas import CompletionBody
from router.structured import param_of


async def completion(front: Front, request: Request) -> Response:
    body = await read(request, CompletionBody)
    name = front.model(body.model)
    given = prompts_of(body.prompt)
    sampling = params.of_completion(body, len(given))
    if sampling.grammar is not None:
        await front.grammars.check(sampling.grammar, param_of(body))
    request.state.ticket.widen(len(given))
    prompts = [await prompt_of(front, body, prompt) for prompt in given]
    longest = max(len(prompt.tokens) for prompt in prompts)
    sampling = params.fit(sampling, longest, front.limit(), default=body.max_tokens is None)
    about = Envelope(
        id=f"cmpl-{request.state.request_id}",
        model=name,
        created=int(time.time()),
        vocabulary=front.tokenizer,
        fingerprint=front.fingerprint(),
        logprobs=sampling.logprobs,
        prompt_top=body.prompt_logprobs,
        token_ids=bool(body.return_token_ids),
        prompts=prompts,
    )
    tokens = [prompt.tokens for prompt in prompts]
    asked = Asked.of(body, tokens, sampling, mute=params.only_echo(body))
    return await answer(front, request, asked, CompletionReply(about, n=sampling.n, echo=bool(body.echo)))
