"""One line in the log for each request that has ended. Knows facts of it; there is no text to be logged."""

from __future__ import annotations

import logging

from pagewire import logs
from router.finished import Finished

log = logging.getLogger("pagewire.request")


def write(request: Finished) -> None:
    logs.event(log, logging.WARNING if request.status >= 500 else logging.INFO, "request", facts(request))


def facts(request: Finished) -> dict[str, logs.Fact]:
    """``queue_ms`` is that of the nodes; None: not reported, or it did not come so far."""
    return {
        "id": request.request,
        "tenant": request.about.tenant,
        "model": request.about.model,
        "stream": request.about.stream,
        "status": request.status,
        "finish": request.finish,
        "error": request.code,
        "tokens_in": request.prompt_tokens,
        "tokens_cached": request.cached_tokens,
        "tokens_out": request.completion_tokens,
        "queue_ms": request.queue_ms,
        "prefill_ms": request.prefill_ms,
        "ttft_ms": _ms(request.first_s),
        "handoff_exposed_ms": request.exposed_ms,
        "handoff_bytes": request.handoff_bytes,
        "total_ms": _ms(request.ended_s),
        "attempts": request.attempts,
        "prefill": request.prefill_node,
        "decode": request.decode_node,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
