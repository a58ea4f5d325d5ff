"""Requests that no client should send, without end: drawn from a seed, and made by schemathesis from the
API's own page.

Knows fields and their types from the wrong side; sends nothing.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

from benchmarks.fuzz_by_hand import CHAT, COMPLETIONS, GETS, POSTS, Case, get, post

_VALID: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    COMPLETIONS: {"prompt": "hi", "max_tokens": 2},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1, 2]},
}


def drawn(rng: random.Random) -> Case:
    """One of endless many."""
    path = rng.choice(POSTS)
    match rng.randrange(6):
        case 0 | 1:
            body = dict(_VALID[path])
            for _ in range(rng.randint(1, 3)):
                body[rng.choice(_NAMES)] = _value(rng)
            return Case("field", post(path, _dump(body)))
        case 2:
            return Case("anything", post(path, _dump(_value(rng))))
        case 3:
            body_bytes = bytearray(_dump(_VALID[path] | {rng.choice(_NAMES): _value(rng)}))
            for _ in range(rng.randint(1, 4)):
                body_bytes[rng.randrange(len(body_bytes))] = rng.randrange(256)
            return Case("flipped", post(path, bytes(body_bytes[: rng.randint(1, len(body_bytes))])))
        case 4:
            whole = bytearray(post(path, _dump(_VALID[path])))
            for _ in range(rng.randint(1, 6)):
                whole[rng.randrange(len(whole))] = rng.randrange(256)
            return Case("raw", bytes(whole), whole=False)
        case _:
            letters = "".join(chr(rng.randint(33, 255)) for _ in range(rng.randint(1, 40)))
            path = rng.choice(GETS) + rng.choice(["", "/", "?"]) + letters
            return Case(
                "path",
                get(path, f"x: {letters}", method=rng.choice(["GET", "POST", "HEAD", letters])),
                whole=False,
            )


_NAMES = re.findall(
    r"\w+",
    """
    model messages prompt n temperature top_p top_k min_p presence_penalty frequency_penalty
    repetition_penalty logit_bias seed max_tokens max_completion_tokens min_tokens ignore_eos stop
    stop_token_ids include_stop_str_in_output stream stream_options cache_salt return_token_ids
    timing echo logprobs top_logprobs prompt_logprobs add_special_tokens add_generation_prompt
    continue_final_message tokens return_token_strs tools tool_choice response_format user priority
    suffix best_of parallel_tool_calls structured_outputs guided_json guided_regex reasoning_effort
    metadata x
    """,
)

_LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 16, 64, 1 << 31, 1 << 63, -(1 << 63),
    10**40, 0.0, -0.0, 1e-320, 1.5, 1e308, "", "x", "\x00",
    "\ud800", "a" * 300, "é" * 50, "null", "1", "json_object", "required", "{{7*7}}", "../../etc/passwd",
    "\u202e", "%s%n",
    float("nan"), float("inf"),
)  # fmt: skip


def _value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8)
    if depth > 3 or kind < 5:
        return rng.choice(_LEAVES)
    if kind == 5:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind == 6:
        return [rng.choice(_LEAVES)] * rng.choice([1, 20, 20_000])
    names = (
        *_NAMES,
        "role",
        "content",
        "type",
        "text",
        "name",
        "function",
        "json_schema",
        "schema",
        "1",
        "-1",
        "",
    )
    return {rng.choice(names): _value(rng, depth + 1) for _ in range(rng.randrange(5))}


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def from_schema(document: dict[str, Any], count: int, seed: int) -> list[Case]:
    """About ``count`` that schemathesis makes: wrong ones of routes with a body, right ones of the others."""
    import schemathesis

    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    each = max(1, count // len(operations))
    return [case for operation in operations for case in _of_operation(operation, each, seed)]


def _of_operation(operation: Any, count: int, seed: int) -> list[Case]:
    import hypothesis
    from schemathesis import GenerationMode

    mode = GenerationMode.NEGATIVE if operation.method.upper() == "POST" else GenerationMode.POSITIVE
    made: list[Case] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def take(case: Any) -> None:
        made.append(Case(f"schema {operation.label}", _as_bytes(case)))

    take()
    return made


def _as_bytes(case: Any) -> bytes:
    import requests

    asked = requests.Request(**case.as_transport_kwargs(base_url="http://x")).prepare()
    body = asked.body or b""
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    ours = ("connection", "content-length", "host")
    fields = [f"{name}: {value}" for name, value in asked.headers.items() if name.lower() not in ours]
    head = [f"{asked.method} {asked.path_url} HTTP/1.1", "host: x", "connection: close"]
    head += [f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode("latin-1", "replace") + body
