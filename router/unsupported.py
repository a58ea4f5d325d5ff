"""Fields of OpenAI's and vLLM's APIs that would change the answer and that are not served: refused by name.

Knows names and the values that ask for nothing; knows no request model. A field is refused rather than
ignored when a client that sent it would get an answer of another kind than it asked for.
"""

from __future__ import annotations

from typing import Any

from pagewire.errors import RequestError

_NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})

# field -> values that are harmless, beside those in _NOTHING
_REFUSED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    "use_beam_search": (),
    "length_penalty": (1, 1.0),
    "allowed_token_ids": (),
    "bad_words": (),
    "logits_processors": (),
    "prompt_embeds": (),
    "truncate_prompt_tokens": (),
    "documents": (),
    "chat_template": (),
    "mm_processor_kwargs": (),
    "media_io_kwargs": (),
    "lora_request": (),
    "kv_transfer_params": (),
    "bootstrap_host": (),
    "bootstrap_room": (),
}

# The same, with what to do instead.
_INSTEAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "functions": ((), "functions is deprecated: send them as tools"),
    "function_call": (("none", "auto"), "function_call is deprecated: send tool_choice"),
    "suffix": ((), "suffix is not supported: this model writes on from a prompt and does not fill gaps"),
    "echo": ((), "echo is not supported for chat; completions have it"),  # which define the field
    "store": ((), "nothing is stored here: leave store out, or send false"),
    "service_tier": (("auto", "default"), "there is one service tier here: default"),
}


def refuse_unsupported(fields: dict[str, Any], n: int) -> None:
    """Raises RequestError for the first of ``fields`` that asks for what is not served."""
    for name, value in fields.items():
        if value in _NOTHING:
            continue
        if name == "best_of" and value != n:
            raise RequestError("best_of is not supported unless it equals n", param="best_of")
        if name == "metadata":
            _check_metadata(value)
        if name in _REFUSED and value not in _REFUSED[name]:
            raise RequestError(f"{name} is not supported by this server", param=name)
        if name in _INSTEAD and value not in _INSTEAD[name][0]:
            raise RequestError(_INSTEAD[name][1], param=name)


def _check_metadata(value: Any) -> None:
    """OpenAI's limits. Nobody reads it here: it is for the caller's own books."""
    right = isinstance(value, dict) and len(value) <= 16
    if not right or any(len(k) > 64 or not isinstance(v, str) or len(v) > 512 for k, v in value.items()):
        raise RequestError(
            "metadata maps at most 16 names of up to 64 characters to texts of up to 512", param="metadata"
        )
