"""From a client's body to ``SamplingParams``: names, defaults and how many tokens there is room for.

Knows the two APIs' defaults; knows no tokenizer and no node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pagewire.errors import PromptTooLong, RequestError
from pagewire.sampling import SamplingParams
from router.schemas import MAX_PROMPTS, ChatBody, CompletionBody, GenerationBody
from router.structured import grammar_of
from router.unsupported import refuse_unsupported

COMPLETION_TOKENS = 16  # OpenAI's default of max_tokens for completions
TIMEOUT_HEADER = "x-request-timeout-ms"


def of_chat(body: ChatBody) -> SamplingParams:
    """``max_tokens`` stays None if the client gave none: as far as there is room. Raises RequestError."""
    _check(body, prompts=1)
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    sampling = _sampling(body, max_tokens=limit, logprobs=(body.top_logprobs or 0) if body.logprobs else None)
    return replace(sampling, prompt_logprobs=body.prompt_logprobs)


def chat_names(body: ChatBody) -> dict[str, str]:
    """What a chat calls the fields that ``SamplingParams`` knows by another name."""
    names = {"logprobs": "top_logprobs"} if body.logprobs else {}
    return names if body.max_completion_tokens is None else names | {"max_tokens": "max_completion_tokens"}


def of_completion(body: CompletionBody, prompts: int) -> SamplingParams:
    """``max_tokens`` 0 with echo asks for the prompt alone; one token is computed and not shown."""
    _check(body, prompts)
    limit = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    if only_echo(body):
        limit = 1
    wanted = [k for k in (body.logprobs if body.echo else None, body.prompt_logprobs) if k is not None]
    sampling = _sampling(body, max_tokens=limit, logprobs=body.logprobs)
    return replace(sampling, prompt_logprobs=max(wanted, default=None))


def only_echo(body: CompletionBody) -> bool:
    return bool(body.echo) and body.max_tokens == 0


def fit(
    sampling: SamplingParams, prompt: int, limit: int, *, default: bool = False, field: str = "prompt"
) -> SamplingParams:
    """Resolve ``max_tokens`` for a prompt of ``prompt`` tokens, from ``field``, in a context of ``limit``.

    ``default``: the client did not choose max_tokens, so it gives way. Raises PromptTooLong with the numbers.
    """
    room = limit - prompt
    asked = sampling.max_tokens
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {prompt} tokens, and this server holds {limit} of prompt and answer together",
            param=field,
        )
    if asked is None or (default and asked > room):
        return replace(sampling, max_tokens=room)
    if asked > room:
        raise PromptTooLong(
            f"the prompt has {prompt} tokens and max_tokens is {asked}: together {prompt + asked}, "
            f"and this server holds {limit}",
            param="max_tokens",
        )
    return sampling


def timeout_s(headers: Mapping[str, str]) -> float | None:
    """How long the client is willing to wait for the whole answer; None: it did not say. Raises
    RequestError."""
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and int(given[:12]) > 0):
        raise RequestError(f"{TIMEOUT_HEADER} is a whole number of milliseconds", param=TIMEOUT_HEADER)
    return int(given[:12]) / 1000


def _check(body: GenerationBody, prompts: int) -> None:
    """Raises RequestError for what no single field can tell."""
    n = 1 if body.n is None else body.n
    refuse_unsupported(body.unknown, n)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options needs stream to be true", param="stream_options")
    if body.prompt_logprobs is not None and body.stream:
        raise RequestError("prompt_logprobs come with whole replies, not in streams", param="prompt_logprobs")
    if prompts * n > MAX_PROMPTS:
        raise RequestError(f"prompts x n may be at most {MAX_PROMPTS}", param="n")


def _sampling(body: GenerationBody, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
    given = {
        name: value
        for name in (
            "n", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
            "repetition_penalty", "seed", "min_tokens", "ignore_eos", "include_stop_str_in_output",
        )
        if (value := getattr(body, name)) is not None
    }  # fmt: skip
    return SamplingParams(
        **given,
        max_tokens=max_tokens,
        logprobs=logprobs,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=_bias(body.logit_bias or {}),
        grammar=grammar_of(body),
    )


def _bias(given: dict[str, float]) -> dict[int, float]:
    if any(not token.isdecimal() or not token.isascii() or len(token) > 10 for token in given):
        raise RequestError("logit_bias maps token ids to numbers", param="logit_bias")
    return {int(token): value for token, value in given.items()}
