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
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "web_search_options": (),
    "suffix": (),
    "use_beam_search": (),
    "allowed_token_ids": (),
    "bad_words": (),
    "logits_processors": (),
    "prompt_logprobs": (),
    "prompt_embeds": (),
    "truncate_prompt_tokens": (),
    "documents": (),
    "chat_template": (),
    "chat_template_kwargs": (),
    "mm_processor_kwargs": (),
    "lora_request": (),
    "kv_transfer_params": (),
    "bootstrap_host": (),
    "bootstrap_room": (),
}


def refuse_unsupported(fields: dict[str, Any], n: int) -> None:
    """Raises RequestError for the first of ``fields`` that asks for what is not served."""
    for name, value in fields.items():
        if name == "best_of" and value not in (None, n):
            raise RequestError("best_of is not supported unless it equals n", param="best_of")
        if name in _REFUSED and value not in _NOTHING and value not in _REFUSED[name]:
            raise RequestError(f"{name} is not supported by this server", param=name)
        if name == "echo" and value:  # of chat: completions define the field
            raise RequestError("echo is not supported for chat", param="echo")
