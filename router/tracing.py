"""OpenTelemetry spans of each request, made when it has ended, from what the router and the nodes measured.

One server span a request, a child of the client's where it sent a ``traceparent``; below it, one after the
other, queue, prefill, handoff (its exposed part) and decode. ``Finished.segments`` says how they are laid on
the router's clock, so that clocks of hosts need not agree; nodes know nothing of traces. Needs
``pagewire[otel]``; only a router with ``--otlp-endpoint`` imports this.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from pagewire import __version__
from pagewire.errors import ConfigError
from router.finished import HANDOFF, PREFILL, Finished, Segment

EXPORT_S = 2.0  # for one export
CLOSE_S = 2.0  # for those that are left when the router ends

Attributes = dict[str, AttributeValue]


def exporting(endpoint: str) -> SpanProcessor:
    """Sends spans to an OTLP collector over HTTP, from a thread of its own; some are lost while that is away.

    Raises ConfigError if ``endpoint`` is no URL.
    """
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"--otlp-endpoint is a URL such as http://localhost:4318, not {endpoint[:80]!r}")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(
        OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S)
    )


class Tracing:
    """``clock`` is the router's, ``wall`` gives Unix time in nanoseconds."""

    def __init__(
        self,
        processor: SpanProcessor,
        clock: Callable[[], float],
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        resource = Resource.create({"service.name": "pagewire", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer: Tracer = self._provider.get_tracer("pagewire.router", __version__)
        self._clock = clock
        self._wall = wall
        self._propagator = TraceContextTextMapPropagator()

    def told(self, request: Finished) -> None:
        arrived = self._wall() - _ns(self._clock() - request.arrived)
        parent = self._propagator.extract({"traceparent": request.about.traceparent})
        span = self._tracer.start_span(
            "pagewire.request", parent, SpanKind.SERVER, _attributes(request), start_time=arrived
        )
        below = set_span_in_context(span)
        for segment in request.segments():
            child = self._tracer.start_span(
                f"pagewire.{segment.name}",
                below,
                attributes=_part(request, segment),
                start_time=arrived + _ns(segment.start_s),
            )
            child.end(arrived + _ns(segment.end_s))
        if request.status >= 500:
            span.set_status(Status(StatusCode.ERROR, request.code))
        span.end(arrived + _ns(request.ended_s))

    def close(self) -> None:
        """Send what is left, if that does not take long."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(CLOSE_S)


def _attributes(request: Finished) -> Attributes:
    """Named as OpenTelemetry names what is common to models, and ours for the rest."""
    found: dict[str, AttributeValue | None] = {
        "gen_ai.system": "pagewire",
        "gen_ai.request.model": request.about.model,
        "gen_ai.usage.input_tokens": request.prompt_tokens,
        "gen_ai.usage.output_tokens": request.completion_tokens,
        "gen_ai.response.finish_reasons": [request.finish],
        "gen_ai.server.time_to_first_token": request.first_s,
        "http.response.status_code": request.status,
        "pagewire.request.id": request.request,
        "pagewire.tenant": request.about.tenant or None,
        "pagewire.attempts": request.attempts,
        "pagewire.cached_tokens": request.cached_tokens,
    }
    return {name: value for name, value in found.items() if value is not None}


def _part(request: Finished, segment: Segment) -> Attributes:
    found: dict[str, AttributeValue | None] = {"pagewire.node": segment.node or None}
    if segment.name == PREFILL:
        found["pagewire.prompt_tokens"] = request.prompt_tokens
    if segment.name == HANDOFF:
        found |= {
            "pagewire.decode_node": request.decode_node,
            "pagewire.handoff.bytes": request.handoff_bytes,
            "pagewire.handoff.hidden_ms": request.hidden_ms,
        }
    return {name: value for name, value in found.items() if value is not None}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
