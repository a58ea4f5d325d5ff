"""Routes of OpenAI's API that are not served here, and why.

Knows paths; knows no request.
"""

from __future__ import annotations

_STORED = "nothing is stored here: a response is complete in the reply to POST /v1/responses"
_TEXT_ONLY = "this server writes text; for {} run a server with a model that is made for it"

# The first part of the path behind /v1/ -> why
_WHY = {
    "embeddings": _TEXT_ONLY.format("embeddings"),
    "moderations": _TEXT_ONLY.format("moderation"),
    "images": _TEXT_ONLY.format("images"),
    "audio": _TEXT_ONLY.format("audio"),
    "videos": _TEXT_ONLY.format("videos"),
    "realtime": _TEXT_ONLY.format("audio"),
    "score": _TEXT_ONLY.format("scores"),
    "rerank": _TEXT_ONLY.format("scores"),
    "responses": _STORED,
    "conversations": "nothing is stored here: send the conversation with each request",
    "files": "nothing is stored here",
    "uploads": "nothing is stored here",
    "vector_stores": "nothing is stored here",
    "containers": "nothing is stored here",
    "batches": "there are no batches: send the requests, as many at once as the server takes",
    "assistants": "assistants are deprecated: use /v1/responses or /v1/chat/completions",
    "threads": "assistants are deprecated: use /v1/responses or /v1/chat/completions",
    "fine_tuning": "this server does not train",
    "evals": "this server does not run evaluations",
}


def why_not(path: str) -> str | None:
    """Why there is no such route, if it is one of OpenAI's."""
    parts = path.split("/", 3)
    if len(parts) < 3 or parts[1] != "v1":
        return None
    if path.startswith("/v1/chat/completions/"):
        return "nothing is stored here: a completion is complete in its reply"
    return _WHY.get(parts[2])
